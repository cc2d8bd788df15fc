"""Each task's gradient clipped by its own length: what Optax does to one gradient, at any scale and over devices."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from split_parameters import NUM_TASKS, PARAMS, SPECS, TASK_GRADS, collectives, put, stacked_specs

import mtlgrad_jax as mtl


def clip(task_grads, max_norm=1.0, **options):
    tx = mtl.clip_task_norms(max_norm, **options)
    clipped, state = jax.jit(tx.update)(task_grads, tx.init(None))
    assert state == optax.EmptyState()
    chex.assert_trees_all_equal_shapes_and_dtypes(clipped, task_grads)
    return clipped


def rows(scales, dtype=jnp.float32):
    """Gradients of a 40-entry tree whose lengths are the scales, in exact powers of two as far as possible."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((len(scales), 40))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    flat = jnp.asarray(directions * np.asarray(scales)[:, None], dtype)
    return {"w": flat[:, :36].reshape(-1, 6, 6), "b": flat[:, 36:39], "scale": flat[:, 39]}


def flat(tree):
    """All leaves as float64 rows."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)


@pytest.mark.standard_promotion
def test_every_row_is_what_optax_makes_of_it_alone():
    task_grads = rows([0.3, 1.0, 2.0, 70.0, 0.0])
    alone = jax.vmap(lambda grads: optax.clip_by_global_norm(0.7).update(grads, optax.EmptyState())[0])(task_grads)
    clipped = clip(task_grads, 0.7)
    chex.assert_trees_all_close(clipped, alone, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(flat(clipped), axis=1), [0.3, 0.7, 0.7, 0.7, 0.0], rtol=1e-6)


def test_each_task_may_have_its_own_limit():
    clipped = clip(rows([2.0, 2.0, 2.0]), jnp.array([1.0, 3.0, jnp.inf]))
    np.testing.assert_allclose(np.linalg.norm(flat(clipped), axis=1), [1.0, 2.0, 2.0], rtol=1e-6)


@pytest.mark.parametrize("max_norm", [7e-31, 7e-16, 0.7, 7e14, 7e29])
def test_any_scale_of_gradients_and_limit(max_norm):
    """Lengths over 74 decades in one stack, where squares would over- and underflow: judged in float64."""
    scales = np.array([0.0, 1e-37, 1e-30, 1e-15, 1.0, 1e15, 1e30, 1e37])
    task_grads = rows(scales)
    before, after = flat(task_grads), flat(clip(task_grads, max_norm))
    lengths = np.linalg.norm(before, axis=1)
    factors = np.minimum(1, max_norm / np.where(lengths > 0, lengths, 1))
    np.testing.assert_allclose(after, before * factors[:, None], rtol=2e-6, atol=2e-6 * min(max_norm, 1e-30))
    np.testing.assert_array_equal(after[factors == 1], before[factors == 1])


def test_half_precision_is_measured_in_float32():
    for dtype, eps in ((jnp.bfloat16, 2**-8), (jnp.float16, 2**-11)):
        task_grads = {"w": jnp.full((2, 100), jnp.array([[300.0], [0.001]]), dtype), "b": jnp.ones((2, 3), dtype)}
        before, after = flat(task_grads), flat(clip(task_grads, 100.0))
        lengths = np.linalg.norm(before, axis=1)  # 3000, whose square float16 does not hold
        np.testing.assert_allclose(after[0], before[0] * 100 / lengths[0], rtol=eps)
        np.testing.assert_array_equal(after[1], before[1])


def test_mixed_precision_complex_and_integer_leaves():
    with jax.enable_x64(True):
        task_grads = {
            "half": jnp.full((2, 4), 3.0, jnp.bfloat16),
            "double": jnp.full((2, 2), 1e200, jnp.float64),
            "complex": jnp.full((2, 3), 3 - 4j, jnp.complex64),
            "step": jnp.ones((2, 3), jnp.int32),
        }
        clipped = clip(task_grads)
        np.testing.assert_allclose(clipped["double"], 0.5**0.5, rtol=1e-12)
        assert not jnp.any(clipped["half"]) and not jnp.any(clipped["complex"])
        np.testing.assert_array_equal(clipped["step"], 1)
    np.testing.assert_allclose(clip(jnp.full((1, 4), 3 - 4j, jnp.complex64)), 0.3 - 0.4j, rtol=1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_row_that_is_not_finite_stays_and_the_others_are_clipped(bad):
    task_grads = rows([5.0, 5.0, 0.1])
    task_grads["b"] = task_grads["b"].at[1, 0].set(bad)
    clipped = clip(task_grads)
    np.testing.assert_array_equal(flat(clipped)[1:], flat(task_grads)[1:])
    np.testing.assert_allclose(np.linalg.norm(flat(clipped)[0]), 1.0, rtol=1e-6)


@pytest.mark.standard_promotion
def test_the_policy_of_the_method_behind_sees_the_row():
    task_grads = rows([5.0, 5.0, 0.1])
    tx = optax.chain(mtl.clip_task_norms(1.0), mtl.mean(3, nonfinite="drop_task"), optax.sgd(1.0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape[1:]), task_grads)
    clipped = flat(clip(task_grads))
    task_grads["scale"] = task_grads["scale"].at[1].set(jnp.nan)
    update, state = jax.jit(tx.update)(task_grads, tx.init(params), params)
    np.testing.assert_array_equal(state[1].num_nonfinite, [0, 1, 0])
    actual = flat(jax.tree.map(lambda leaf: leaf[None], update))[0]
    np.testing.assert_allclose(actual, -(clipped[0] + clipped[2]) / 2, rtol=1e-5, atol=1e-7)


@pytest.mark.standard_promotion
def test_the_limit_is_a_hyperparameter():
    tx = optax.inject_hyperparams(mtl.clip_task_norms)(max_norm=1.0)
    task_grads = rows([5.0, 5.0])
    state = tx.init(task_grads)
    state.hyperparams["max_norm"] = jnp.asarray(2.0)
    clipped, _ = tx.update(task_grads, state)
    np.testing.assert_allclose(np.linalg.norm(flat(clipped), axis=1), 2.0, rtol=1e-6)


def test_under_vmap_every_example_has_its_own_lengths():
    stacks = jax.tree.map(lambda *leaves: jnp.stack(leaves), rows([5.0, 0.1]), rows([1e30, 1e-30]))
    tx = mtl.clip_task_norms(1.0)
    clipped = jax.jit(jax.vmap(lambda task_grads: tx.update(task_grads, tx.init(None))[0]))(stacks)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], clipped), clip(rows([5.0, 0.1])), rtol=1e-6)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1], clipped), clip(rows([1e30, 1e-30])), rtol=1e-6)


needs_devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; see XLA_FLAGS in conftest.py")
MAX_NORM = 24.3  # below the lengths of some rows of TASK_GRADS and above those of others


@needs_devices
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_parameters_split_over_devices_need_one_all_reduce(axis_type):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(axis_type,))
    tx = mtl.clip_task_norms(MAX_NORM)
    with jax.set_mesh(mesh):
        task_grads = put(TASK_GRADS, mesh, stacked_specs())
        compiled = jax.jit(lambda task_grads: tx.update(task_grads, tx.init(PARAMS))[0]).lower(task_grads).compile()
        clipped = compiled(task_grads)
    assert collectives(compiled) == {"all-reduce": 1, "all-gather": 0, "all-to-all": 0}
    assert {name: leaf.sharding.spec for name, leaf in clipped.items()} == stacked_specs()
    chex.assert_trees_all_close(jax.device_get(clipped), clip(TASK_GRADS, MAX_NORM), rtol=1e-5)


@needs_devices
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_the_task_axis_split_over_devices(axis_type):
    mesh = jax.make_mesh((4, 2), ("task", "model"), axis_types=(axis_type, axis_type))
    tx = mtl.clip_task_norms(MAX_NORM)
    with jax.set_mesh(mesh):
        task_grads = put(TASK_GRADS, mesh, stacked_specs("task"))
        clipped, _ = jax.jit(tx.update)(task_grads, tx.init(PARAMS))
    chex.assert_trees_all_close(jax.device_get(clipped), clip(TASK_GRADS, MAX_NORM), rtol=1e-5)


def shard_mapped(tx, specs):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    specs = jax.tree.map(lambda spec: P(None, *spec), specs, is_leaf=lambda x: isinstance(x, P))
    step = lambda task_grads: tx.update(task_grads, tx.init(None))[0]
    return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(specs,), out_specs=specs))


@needs_devices
def test_shard_map_with_an_axis_name():
    step = shard_mapped(mtl.clip_task_norms(MAX_NORM, axis_name="model"), SPECS)
    assert collectives(step.lower(TASK_GRADS).compile()) == {"all-reduce": 1, "all-gather": 0, "all-to-all": 0}
    chex.assert_trees_all_close(jax.device_get(step(TASK_GRADS)), clip(TASK_GRADS, MAX_NORM), rtol=1e-5)
    huge = jax.tree.map(lambda leaf: leaf * 2.0**100, TASK_GRADS)
    chex.assert_trees_all_close(jax.device_get(step(huge)), clip(huge, MAX_NORM), rtol=1e-5)


@needs_devices
def test_shard_map_counts_a_leaf_that_is_whole_everywhere_once():
    step = shard_mapped(mtl.clip_task_norms(MAX_NORM, axis_name="model"), {"w": P(None, "model"), "b": P()})
    chex.assert_trees_all_close(jax.device_get(step(TASK_GRADS)), clip(TASK_GRADS, MAX_NORM), rtol=1e-5)


@needs_devices
def test_shard_map_without_an_axis_name_is_an_error():
    with pytest.raises(ValueError, match=r"differ over the mesh axes \['model'\]"):
        shard_mapped(mtl.clip_task_norms(MAX_NORM), SPECS)(TASK_GRADS)


def test_errors_are_sentences():
    with pytest.raises(ValueError, match=r"expected max_norm of at least zero, got -1.0\.$"):
        mtl.clip_task_norms(-1.0)
    with pytest.raises(ValueError, match=r"of shape \(2,\), one limit per task, got shape \(3,\)\."):
        clip(jnp.ones((2, 3)), jnp.ones(3))
    with pytest.raises(ValueError, match="one and the same T"):
        clip({"w": jnp.ones((2, 3)), "b": jnp.ones(3)})
    tx = mtl.clip_task_norms(1.0)
    with pytest.raises(ValueError, match=r"expected stacked task gradients .*\(3, 2\)"):
        tx.update(jnp.ones((3, 2)), tx.init(None), jnp.ones((3, 2)))


def test_lengths_of_the_sharded_example_lie_on_both_sides_of_the_limit():
    lengths = np.linalg.norm(flat(TASK_GRADS), axis=1)
    assert lengths.shape == (NUM_TASKS,) and lengths.min() < MAX_NORM < lengths.max()
