"""A derivative that is not finite in one task's own computation stays in its own row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import matrix_free, shared_encoder, stacked

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((5, 4)), jnp.float32)
Y = jnp.asarray(RNG.standard_normal((5, 3)), jnp.float32)
PARAMS = {
    "trunk": jnp.asarray(RNG.standard_normal((4, 6)) / 2, jnp.float32),
    "heads": jnp.asarray(RNG.standard_normal((6, 3)) / 2, jnp.float32),
}
SICK = 1  # the task with the fault


@jax.custom_vjp
def with_infinite_derivative(x):
    return x


with_infinite_derivative.defvjp(lambda x: (x, None), lambda _, seed: (seed * jnp.inf,))

FAULTS = {  # of a residual of shape (5,) or (5, tasks), and of what counts labels
    "0/0": lambda error, count: jnp.sum(error**2 * count, axis=0) / count,
    "sqrt(0)": lambda error, count: jnp.sum(jnp.sqrt(error**2 * count), axis=0),
    "log(0)": lambda error, count: jnp.sum(jnp.log(error**2 * count), axis=0),
    "norm(0)": lambda error, count: jnp.linalg.norm(error * count, axis=0),
    "label NaN": lambda error, count: jnp.mean((error + jnp.where(count > 0, 0.0, jnp.nan)) ** 2, axis=0),
    "overflow": lambda error, count: jnp.sum(jnp.where(count > 0, error, error * 1e30) ** 2, axis=0),
    "custom_vjp": lambda error, count: jnp.sum(
        jnp.where(count > 0, error, with_infinite_derivative(error - error)), axis=0
    ),
}
COUNTS = jnp.array([2.0, 0.0, 1.0])


def outputs(params, x=X):
    return jnp.tanh(x @ params["trunk"]) @ params["heads"]


def error_of(params, task):
    hidden = jnp.tanh(X @ params["trunk"])
    return hidden @ params["heads"][:, task] - Y[:, task]


def alone(fault, task):
    return lambda params: FAULTS[fault](error_of(params, task), COUNTS[task])


def mapped(fault):
    """One head for all tasks, mapped over them."""

    def losses(params):
        hidden = jnp.tanh(X @ params["trunk"])
        loss = lambda head, y, count: FAULTS[fault](hidden @ head - y, count)
        return jax.vmap(loss, (1, 1, 0))(params["heads"], Y, COUNTS)

    return losses


def one_by_one(fault, container):
    return lambda params: container([alone(fault, task)(params) for task in range(3)])


def unpacked(fault):
    return lambda params: {str(task): mapped(fault)(params)[task] for task in range(3)}


CODINGS = {
    "jnp.stack": lambda fault: one_by_one(fault, jnp.stack),
    "tuple": lambda fault: one_by_one(fault, tuple),
    "dict": lambda fault: one_by_one(fault, lambda losses: dict(zip("zay", losses, strict=True))),
    "scaled": lambda fault: lambda params: one_by_one(fault, jnp.stack)(params) * jnp.array([2.0, 1.0, 3.0]),
    "vector": mapped,
    "vector, unpacked": unpacked,
    "checkpoint": lambda fault: jax.checkpoint(mapped(fault)),
    "checkpoint of a tuple": lambda fault: jax.checkpoint(one_by_one(fault, tuple)),
    "jit": lambda fault: jax.jit(mapped(fault)),
    "jit of a checkpoint": lambda fault: jax.jit(jax.checkpoint(one_by_one(fault, jnp.stack))),
}
SCALES = {"scaled": (2.0, 1.0, 3.0)}


@functools.cache
def expected_rows(fault):
    """Differentiate every task alone, as if there were no other."""
    return [jax.grad(alone(fault, task))(PARAMS) for task in range(3)]


def assert_only_one_row_is_lost(fault, task_grads, scales=(1.0, 1.0, 1.0)):
    for task, scale in enumerate(scales):
        found = jax.tree.map(lambda leaf, task=task: leaf[task], task_grads)
        row = jax.tree.map(lambda leaf, scale=scale: leaf * scale, expected_rows(fault)[task])
        if task == SICK:
            assert not np.all(np.isfinite(found["trunk"])) and not np.all(np.isfinite(found["heads"]))
        else:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, row)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("coding", CODINGS)
def test_the_other_rows_are_those_of_jax_grad(fault, coding):
    losses_fn = CODINGS[coding](fault)
    _, task_grads = mtl.task_value_and_grad(losses_fn)(PARAMS)
    assert_only_one_row_is_lost(fault, task_grads, SCALES.get(coding, (1.0, 1.0, 1.0)))


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize("coding", ["tuple", "vector", "checkpoint"])
def test_under_jit_in_chunks_and_with_auxiliary_data(coding, chunk_size):
    losses_fn = lambda params: (CODINGS[coding]("norm(0)")(params), {"rows": X.shape[0]})
    run = jax.jit(mtl.task_value_and_grad(losses_fn, has_aux=True, chunk_size=chunk_size))
    (_, aux), task_grads = run(PARAMS)
    assert aux["rows"] == 5
    assert_only_one_row_is_lost("norm(0)", task_grads)


def test_under_vmap():
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf / 2]), PARAMS)
    _, task_grads = jax.vmap(mtl.task_value_and_grad(CODINGS["tuple"]("norm(0)")))(many)
    assert_only_one_row_is_lost("norm(0)", jax.tree.map(lambda leaf: leaf[0], task_grads))


def test_inside_shard_map():
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    x, y = (jnp.concatenate([leaf, leaf[::-1]]) for leaf in (X, Y))

    def losses_fn(params, x, y):
        error = outputs(params, x) - y
        return jax.lax.pmean(jnp.mean(error**2, axis=0), "batch") * jnp.array([1.0, jnp.nan, 1.0])

    run = lambda params, x, y: mtl.task_value_and_grad(losses_fn)(params, x, y)[1]
    whole, split = PartitionSpec(), PartitionSpec("batch")
    sharded = jax.shard_map(run, mesh=mesh, in_specs=(whole, split, split), out_specs=whole)
    task_grads = jax.jit(sharded)(PARAMS, x, y)
    plain = jax.jacrev(lambda params: jnp.mean((outputs(params) - Y) ** 2, axis=0))(PARAMS)
    for task in (0, 2):
        jax.tree.map(
            lambda a, b, task=task: np.testing.assert_allclose(a[task], b[task], rtol=1e-5, atol=1e-6),
            task_grads,
            plain,
        )
    assert not np.any(np.isfinite(task_grads["trunk"][SICK]))


def test_complex_parameters():
    params = (jnp.asarray(RNG.standard_normal(3), jnp.complex64), jnp.ones(3, jnp.complex64))
    healthy = lambda params: jnp.sum(jnp.abs(params[0] * params[1] - 1j) ** 2)
    losses_fn = lambda params: (healthy(params), jnp.sum(jnp.sqrt(jnp.abs(params[0] * params[1] * 0) ** 2)))
    _, task_grads = mtl.task_value_and_grad(losses_fn)(params)
    expected = jax.grad(healthy)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-5), task_grads, expected)
    assert not np.any(np.isfinite(task_grads[0][1]))


WAYS = {
    "stacked": stacked.linearize,
    "matrix_free": matrix_free.linearize,
    "matrix_free, reverse": functools.partial(matrix_free.linearize, mode="reverse"),
    "matrix_free, at once": functools.partial(matrix_free.linearize, chunk_size=None),
}


@pytest.mark.parametrize("fault", ["0/0", "sqrt(0)", "log(0)", "norm(0)"])
@pytest.mark.parametrize("coding", ["tuple", "vector"])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_hold_j_knows_the_other_products(way, coding, fault):
    @jax.jit
    def run(params):
        _, jac = WAYS[way](CODINGS[coding](fault), params)
        return jac.gram(), jac.combine(jnp.array([0.25, 0.0, 0.75]))

    gram, update = run(PARAMS)
    rows = expected_rows(fault)
    flat = np.stack([np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(row)]) for row in rows]).astype(float)
    others = np.ix_([0, 2], [0, 2])
    np.testing.assert_allclose(gram[others], (flat @ flat.T)[others], rtol=1e-5)
    assert not np.any(np.isfinite(gram[SICK])) and not np.any(np.isfinite(gram[:, SICK]))
    if way != "stacked":  # a row of NaN that is held stays in the sum; `keep` leaves it out
        jax.tree.map(
            lambda u, a, b: np.testing.assert_allclose(u, 0.25 * a + 0.75 * b, rtol=1e-5, atol=1e-6),
            update,
            rows[0],
            rows[2],
        )


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_the_gradients_at_a_shared_representation(chunk_size):
    def heads_fn(heads, hidden):
        return [FAULTS["norm(0)"](hidden @ heads[:, task] - Y[:, task], COUNTS[task]) for task in range(3)]

    encoder_fn = lambda trunk: jnp.tanh(X @ trunk)
    params = (PARAMS["trunk"], PARAMS["heads"])
    _, jac = shared_encoder.linearize(encoder_fn, heads_fn, params, heads="weighted", chunk_size=chunk_size)
    gram = jac.gram()
    hidden = encoder_fn(PARAMS["trunk"])
    rows = [jax.grad(lambda h, t=t: heads_fn(PARAMS["heads"], h)[t])(hidden).ravel() for t in (0, 2)]
    np.testing.assert_allclose(gram[np.ix_([0, 2], [0, 2])], [[a @ b for a in rows] for b in rows], rtol=1e-5)
    assert not np.any(np.isfinite(gram[SICK]))
    update = jac.combine(jnp.array([0.25, 0.0, 0.75]))
    expected = expected_rows("norm(0)")
    for place, name in enumerate(("trunk", "heads")):
        wanted = 0.25 * expected[0][name] + 0.75 * expected[2][name]
        np.testing.assert_allclose(update[place], wanted, rtol=1e-4, atol=1e-6)


def test_a_batch_without_labels_leaves_the_other_task_its_step():
    params = {"trunk": jnp.array([1.0, 2.0]), "a": jnp.array(1.0), "b": jnp.array(1.0)}

    def losses_fn(params, count):
        unlabelled = jnp.sum((params["b"] * params["trunk"] + 1.0) ** 2)
        return jnp.sum((params["a"] * params["trunk"] - 3.0) ** 2), unlabelled * count / count

    tx = optax.chain(mtl.mgda(num_tasks=2, nonfinite="drop_task"))
    _, task_grads = mtl.task_value_and_grad(losses_fn)(params, jnp.float32(0))
    updates, (state,) = tx.update(task_grads, tx.init(params), params)
    np.testing.assert_allclose(updates["trunk"], [-4.0, -2.0])
    np.testing.assert_array_equal(state.num_nonfinite, [0, 1])


def test_rows_do_not_depend_on_how_the_losses_are_written():
    """Finite everywhere: the program that keeps tasks apart is the same map."""
    losses_fn = lambda params: jnp.mean((outputs(params) - Y) ** 2, axis=0)
    expected = jax.jacrev(losses_fn)(PARAMS)
    rolled = lambda params: losses_fn(params)[jnp.array([2, 0, 1])]
    joined = lambda params: jnp.concatenate([losses_fn(params)[:2], losses_fn(params)[2:] * 3])
    mixed = lambda params: losses_fn(params) @ jnp.array([[1.0, 2.0], [0.5, -1.0], [0.0, 1.0]])
    kept = lambda params: jnp.cumsum(losses_fn(params))
    for function, rows in (
        (losses_fn, np.eye(3)),
        (rolled, np.eye(3)[[2, 0, 1]]),
        (joined, np.diag([1.0, 1, 3])),
        (mixed, np.array([[1.0, 0.5, 0], [2, -1, 1]])),
        (kept, np.tri(3)),
    ):
        _, task_grads = mtl.task_value_and_grad(function)(PARAMS)
        wanted = jax.tree.map(lambda leaf, rows=rows: np.tensordot(rows, leaf, 1), expected)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), task_grads, wanted)


def test_heads_are_run_once_and_not_once_a_row():
    """T² passes through heads become T: with sixteen equal heads the work falls by more than four times."""
    width, num_tasks = 64, 16
    params = {"trunk": jnp.ones((4, width)), "heads": [jnp.ones((width, width))] * num_tasks}
    losses_fn = lambda params: [jnp.sum(jnp.tanh(X @ params["trunk"]) @ head) for head in params["heads"]]

    def operations(function):
        return jax.jit(function).lower(params).compile().cost_analysis()["flops"]

    plain = operations(jax.jacrev(lambda params: jnp.stack(losses_fn(params))))
    assert operations(mtl.task_value_and_grad(losses_fn)) < plain / 4
