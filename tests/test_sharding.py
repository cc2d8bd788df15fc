"""Parameters split over eight devices: the same update, one T×T all-reduce, no gather, the leaves' own sharding."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import draw
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import mtlgrad_jax as mtl

NUM_TASKS = 4
ROWS = np.random.default_rng(0).standard_normal((NUM_TASKS, 16 * 32 + 64)).astype(np.float32)
TASK_GRADS = {"w": jnp.asarray(ROWS[:, :512]).reshape(-1, 16, 32), "b": jnp.asarray(ROWS[:, 512:])}
PARAMS = {"w": jnp.zeros((16, 32)), "b": jnp.zeros(64)}
SPECS = {"w": P(None, "model"), "b": P("model")}
FACTORIES = {"mgda": mtl.mgda, "primary_aux": mtl.primary_aux, "upgrad": mtl.upgrad}

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; see XLA_FLAGS in conftest.py")


@pytest.fixture(params=FACTORIES)
def factory(request):
    return FACTORIES[request.param]


def expected_update(factory):
    tx = factory(NUM_TASKS)
    return tx.update(TASK_GRADS, tx.init(PARAMS), PARAMS)[0]


def assert_same(update, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), update, expected)


def collectives(compiled):
    """Count collectives on the path that ordinary gradients take; the rescue from under- and overflow is a branch."""
    text = compiled.as_text()
    main = text[text.index("\nENTRY") :]
    return {
        name: len(re.findall(rf"\b{name}(?:-start)?\(", main)) for name in ("all-reduce", "all-gather", "all-to-all")
    }


def put(tree, mesh, specs):
    return jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), tree, specs)


def stacked_specs(task_axis=None):
    return jax.tree.map(lambda spec: P(task_axis, *spec), SPECS, is_leaf=lambda x: isinstance(x, P))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_parameters_split_over_devices(factory, axis_type):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(axis_type,))
    tx = factory(NUM_TASKS)
    with jax.set_mesh(mesh):
        task_grads, params = put(TASK_GRADS, mesh, stacked_specs()), put(PARAMS, mesh, SPECS)
        compiled = jax.jit(tx.update).lower(task_grads, tx.init(params), params).compile()
        update, _ = compiled(task_grads, tx.init(params), params)
    assert collectives(compiled) == {"all-reduce": 1, "all-gather": 0, "all-to-all": 0}
    assert {name: leaf.sharding.spec for name, leaf in update.items()} == SPECS
    assert_same(update, expected_update(factory))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_the_task_axis_split_over_devices(factory, axis_type):
    mesh = jax.make_mesh((4, 2), ("task", "model"), axis_types=(axis_type, axis_type))
    tx = factory(NUM_TASKS)
    with jax.set_mesh(mesh):
        task_grads = put(TASK_GRADS, mesh, stacked_specs("task"))
        update, _ = jax.jit(tx.update)(task_grads, tx.init(PARAMS), PARAMS)
    assert_same(update, expected_update(factory))


def shard_mapped(tx, specs, **options):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    in_specs = jax.tree.map(lambda spec: P(None, *spec), specs, is_leaf=lambda x: isinstance(x, P))
    step = lambda task_grads: tx.update(task_grads, tx.init(None))[0]
    return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(in_specs,), out_specs=specs, **options))


def test_shard_map_with_an_axis_name(factory):
    step = shard_mapped(factory(NUM_TASKS, axis_name="model"), SPECS)
    assert collectives(step.lower(TASK_GRADS).compile()) == {"all-reduce": 1, "all-gather": 0, "all-to-all": 0}
    assert_same(step(TASK_GRADS), expected_update(factory))


def test_shard_map_counts_a_leaf_that_is_whole_everywhere_once(factory):
    step = shard_mapped(factory(NUM_TASKS, axis_name="model"), {"w": P(None, "model"), "b": P()})
    assert_same(step(TASK_GRADS), expected_update(factory))


def test_shard_map_without_an_axis_name_is_an_error_not_a_wrong_answer(factory):
    with pytest.raises(ValueError, match=r"differ over the mesh axes \['model'\].*jax.lax.pmean.*axis_name=\(\)"):
        shard_mapped(factory(NUM_TASKS), SPECS)(TASK_GRADS)


def test_shard_map_rescues_gradients_out_of_range():
    step = shard_mapped(mtl.mgda(axis_name="model"), SPECS)
    tiny = jax.tree.map(lambda leaf: leaf * 2.0**-90, TASK_GRADS)
    rescaled = jax.tree.map(lambda leaf: leaf * 2.0**90, step(tiny))
    assert_same(rescaled, expected_update(mtl.mgda))


@pytest.mark.skipif(not hasattr(jax.lax, "pcast"), reason="older jax has jax.lax.pvary in place of jax.lax.pcast")
def test_a_data_parallel_batch_is_averaged_before_the_gram_matrix():
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    x = jnp.asarray(draw("gaussian", 16)[:, :6])
    params = jnp.ones((6, 2))
    losses_fn = lambda params, x: jnp.mean((x @ params - jnp.arange(2.0)[None, :]) ** 2, axis=0)
    tx = mtl.mgda()

    def step(params, x):
        local = jax.lax.pcast(params, "batch", to="varying")
        _, task_grads = mtl.task_value_and_grad(losses_fn)(local, x)
        return tx.update(jax.lax.pmean(task_grads, "batch"), tx.init(params), params)[0]

    split = jax.shard_map(step, mesh=mesh, in_specs=(P(), P("batch")), out_specs=P())
    _, task_grads = mtl.task_value_and_grad(losses_fn)(params, x)
    np.testing.assert_allclose(
        jax.jit(split)(params, x), tx.update(task_grads, tx.init(params))[0], rtol=1e-4, atol=1e-5
    )
