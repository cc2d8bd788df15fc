"""Every method on every mesh: three steps as on one device, one T×T all-reduce, no gather, the leaves' own sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PLAIN, draw, every_plain_method, falling_losses, one_of_each_kind
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from split_parameters import collectives

import mtlgrad_jax as mtl

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; see XLA_FLAGS in conftest.py")

NUM_STEPS = 3
WIDTHS = {"kernel": 16, "bias": 20}  # no other axis is so long: a leaf of the state is known by its width
PARAMS = {name: jnp.zeros(width) for name, width in WIDTHS.items()}
SPLIT = dict.fromkeys(WIDTHS, P("model"))
ONE_WHOLE = SPLIT | {"bias": P()}
MESHES = {  # the type of its axis, how the leaves lie, whether in `shard_map`
    "automatic": (AxisType.Auto, SPLIT, False),
    "explicit": (AxisType.Explicit, SPLIT, False),
    "shard_map": (AxisType.Auto, SPLIT, True),
    "shard_map_one_whole": (AxisType.Auto, ONE_WHOLE, True),
}


def mesh_of(axis_type):
    return jax.make_mesh((4,), ("model",), axis_types=(axis_type,), devices=jax.devices()[:4])


def tree(rows):
    return {"kernel": rows[..., :16], "bias": rows[..., 16:]}


@functools.cache
def inputs_of(case):
    """Return the gradients of every step, of all tasks or of one after the other, with what else it is given."""
    num_tasks, losses = case.num_tasks, falling_losses(case.num_tasks, NUM_STEPS)
    rows = [draw("gaussian", 8, seed)[:num_tasks, :36] for seed in range(2 * NUM_STEPS)]
    if case.one_per_step:
        return [(tree(rows[step][task]), {"task": np.int32(task)}) for step in range(2) for task in range(num_tasks)]
    return [(tree(rows[i]), case.extras(tree(rows[i + NUM_STEPS]), losses[i])) for i in range(NUM_STEPS)]


def specs_like(values, specs):
    """Return how the leaves of gradients, or of a state, lie if those of the parameters lie like `specs`."""
    of_width = {WIDTHS[name]: spec for name, spec in specs.items()}

    def spec_of(leaf):
        spec = of_width.get(np.shape(leaf)[-1], P()) if np.ndim(leaf) else P()
        return P(*[None] * (np.ndim(leaf) - 1), *spec) if spec else P()

    return jax.tree.map(spec_of, values)


def prepare(case, mesh=None, specs=None, mapped=False):
    """Return one step, jitted for one device or for a mesh, its first state, and how values are placed."""
    tx, inputs = case.make(case.num_tasks, axis_name="model" if mapped else None), inputs_of(case)
    state, place, options = tx.init(PARAMS), lambda values: values, {}
    step = lambda grads, state, extras: tx.update(grads, state, **extras)
    if mesh is not None:
        sharding_of = lambda specs: jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
        place = lambda values: jax.tree.map(jax.device_put, values, sharding_of(specs_like(values, specs)))
        specs_in = [specs_like(values, specs) for values in (inputs[0][0], state, inputs[0][1])]
        specs_out = (specs, specs_in[1])
        options = {"out_shardings": sharding_of(specs_out)}
        if mapped:
            step = jax.shard_map(step, mesh=mesh, in_specs=tuple(specs_in), out_specs=specs_out)
    return jax.jit(step, **options), place(state), place


def trace(case, *where):
    step, state, place = prepare(case, *where)
    grads, extras = inputs_of(case)[0]
    return step.trace(place(grads), state, place(extras))


def run(case, *where):
    """Compile one step and take all, on one device or on a mesh; return updates, states and the program."""
    program, taken = trace(case, *where).lower().compile(), []
    _, state, place = prepare(case, *where)
    for grads, extras in inputs_of(case):
        update, state = program(place(grads), state, place(extras))
        taken.append(jax.device_get((update, state)))
    return taken, program


@functools.cache
def on_one_device(case):
    return run(case)[0]


def on_mesh(function, case, name):
    axis_type, specs, mapped = MESHES[name]
    mesh = mesh_of(axis_type)
    with jax.set_mesh(mesh):
        return function(case, mesh, specs, mapped)


def draws_for_coordinates(case):
    return {"R", "K"} <= set(case.claims.needs)


def assert_same(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected)


# A method that sees the Gram matrix only has it whole on every device. What XLA makes of that is asked of each on one
# mesh; what JAX says to it, the types of shardings and of what varies, it says when it traces.
RUN = [(case, name) for name in MESHES for case in (PLAIN if name == "automatic" else one_of_each_kind(PLAIN))]
TRACED = [(case, name) for name in MESHES for case in PLAIN if (case, name) not in RUN]


@pytest.mark.parametrize(("case", "name"), TRACED, ids=str)
def test_a_step_is_traced_on_every_mesh(case, name):
    shapes = lambda traced: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), traced.out_info)
    assert shapes(on_mesh(trace, case, name)) == shapes(trace(case))


@pytest.mark.parametrize(("case", "name"), RUN, ids=str)
def test_every_step_and_its_record_are_those_of_one_device(case, name):
    taken, program = on_mesh(run, case, name)
    most = 3 if case.on_rows else 1  # the Gram matrix, and what else a method asks of rows
    counted = collectives(program)
    assert counted["all-reduce"] <= most and counted["all-gather"] == counted["all-to-all"] == 0, counted
    if not (draws_for_coordinates(case) and name.startswith("shard_map")):
        assert_same(taken, on_one_device(case))


@pytest.mark.parametrize("case", [case for case in PLAIN if draws_for_coordinates(case)], ids=str)
def test_every_piece_of_a_leaf_draws_numbers_of_its_own(case):
    """The pieces hold the same numbers; what they keep of them, all of one sign, differs."""
    piece = draw("gaussian", case.num_tasks)[:, :16]
    positive, negative = np.maximum(piece, 0).sum(0), np.minimum(piece, 0).sum(0)
    tx, specs = case.make(None, axis_name="model"), P("model")
    step = lambda rows: tx.update(rows, tx.init(None))[0]
    mapped = jax.shard_map(step, mesh=mesh_of(AxisType.Auto), in_specs=P(None, "model"), out_specs=specs)
    kept = np.split(np.asarray(jax.jit(mapped)(np.tile(piece, 4))), 4)
    signs = [np.isclose(part, positive, rtol=1e-5) for part in kept]
    for part, is_positive in zip(kept, signs, strict=True):
        np.testing.assert_allclose(part, np.where(is_positive, positive, negative), rtol=1e-5)
    assert len({tuple(sign) for sign in signs}) == 4


def shard_mapped(case, axis_name, **options):
    """Return a step in `shard_map`, on parameters split over its devices, and its first gradients."""
    tx, (grads, extras) = case.make(case.num_tasks, axis_name=axis_name), inputs_of(case)[0]
    state = tx.init(PARAMS)
    in_specs = tuple(specs_like(values, SPLIT) for values in (grads, state, extras))
    step = jax.shard_map(
        lambda grads, state, extras: tx.update(grads, state, **extras)[0],
        mesh=mesh_of(AxisType.Auto),
        in_specs=in_specs,
        out_specs=SPLIT,
        **options,
    )
    return lambda: jax.eval_shape(step, grads, state, extras)


@every_plain_method
def test_a_mesh_that_does_not_track_what_differs_is_refused(case):
    sentence = r"expected a shard_map that tracks .* over \['model'\] .*check_vma=False.*or pass axis_name=\(\) if "
    with pytest.raises(ValueError, match=sentence):
        shard_mapped(case, "model", check_vma=False)()


@every_plain_method
def test_split_gradients_without_an_axis_name_are_an_error_not_a_wrong_answer(case):
    with pytest.raises(ValueError, match=r"differ over the mesh axes \['model'\].*jax.lax.pmean.*axis_name=\(\)"):
        shard_mapped(case, None)()


def expected_update(tx, task_grads):
    return tx.update(task_grads, tx.init(PARAMS))[0]


TASK_GRADS = tree(draw("gaussian", 8)[:4, :36])


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("factory", [mtl.mgda, mtl.primary_aux, mtl.upgrad])
def test_the_task_axis_split_over_devices(factory, axis_type):
    mesh, tx = jax.make_mesh((4, 2), ("task", "model"), axis_types=(axis_type, axis_type)), factory(4)
    with jax.set_mesh(mesh):
        task_grads = jax.device_put(TASK_GRADS, NamedSharding(mesh, P("task", "model")))
        update, _ = jax.jit(tx.update)(task_grads, tx.init(PARAMS))
    assert_same(update, expected_update(tx, TASK_GRADS))


def test_shard_map_rescues_gradients_out_of_range():
    tx = mtl.mgda(axis_name="model")
    step = jax.shard_map(
        lambda task_grads: tx.update(task_grads, tx.init(None))[0],
        mesh=mesh_of(AxisType.Auto),
        in_specs=(specs_like(TASK_GRADS, SPLIT),),
        out_specs=SPLIT,
    )
    tiny = jax.tree.map(lambda leaf: leaf * np.float32(2.0**-90), TASK_GRADS)
    rescaled = jax.tree.map(lambda leaf: leaf * 2.0**90, jax.jit(step)(tiny))
    assert_same(rescaled, expected_update(mtl.mgda(), TASK_GRADS))


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
