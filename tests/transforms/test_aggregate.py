"""Any weighting as an Optax transformation: chains, records, policies, and JAX and Optax citizenship."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import draw

import mtlgrad_jax as mtl

PARAMS = {"w": jnp.zeros((4, 5)), "b": jnp.zeros(())}
FACTORIES = {
    "mgda": mtl.mgda,
    "primary_aux": mtl.primary_aux,
    "primary_aux_2": lambda *args, **options: mtl.primary_aux(*args, num_primary=2, **options),
}


def stack(rows):
    """Split rows of length 21 into the leaves of PARAMS."""
    return {"w": jnp.asarray(rows[:, :20]).reshape(-1, 4, 5), "b": jnp.asarray(rows[:, 20])}


def rows(num_tasks=3, seed=0):
    return draw("gaussian", num_tasks, seed)[:, :21]


def flat(update):
    return np.concatenate([np.asarray(update["w"]).reshape(-1), np.asarray(update["b"]).reshape(-1)])


@pytest.fixture(params=FACTORIES)
def factory(request):
    return FACTORIES[request.param]


def test_update_is_the_weighted_sum_of_the_rows(factory):
    tx = factory(3)
    task_grads = rows()
    update, state = tx.update(stack(task_grads), tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(update, PARAMS)
    np.testing.assert_allclose(flat(update), np.asarray(state.weights) @ task_grads, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state.gram, task_grads @ task_grads.T, rtol=1e-5, atol=1e-5)
    assert 0 <= state.gap <= 1e-5
    np.testing.assert_array_equal(state.num_nonfinite, [0, 0, 0])


def test_without_num_tasks_there_is_no_state_and_any_number_of_tasks(factory):
    tx = factory()
    state = tx.init(PARAMS)
    assert jax.tree.leaves(state) == []
    for num_tasks in (2, 3, 5):
        recorded = factory(num_tasks)
        task_grads = stack(rows(num_tasks))
        expected, _ = recorded.update(task_grads, recorded.init(PARAMS))
        actual, state = tx.update(task_grads, state)
        chex.assert_trees_all_close(actual, expected, rtol=1e-6)


@pytest.mark.standard_promotion
def test_first_in_a_chain_with_any_optimizer(factory):
    for optimizer in (optax.sgd(0.1), optax.adam(1e-3), optax.adamw(1e-3), optax.lion(1e-3)):
        tx = optax.chain(factory(3), optimizer)
        state = tx.init(PARAMS)
        updates, state = jax.jit(tx.update)(stack(rows()), state, PARAMS)
        params = optax.apply_updates(PARAMS, updates)
        chex.assert_trees_all_equal_shapes_and_dtypes(params, PARAMS)
        assert optax.tree.get(state, "weights").shape == (3,)


@pytest.mark.standard_promotion
def test_runs_in_optax_aggregating_process(factory):
    experimental = pytest.importorskip("optax.experimental")  # since optax 0.2.7
    aggregating = experimental.aggregating  # an attribute, not a module to import
    tx = aggregating.process(optax.identity(), factory(3), optax.adam(1e-2))
    plain = optax.chain(factory(3), optax.adam(1e-2))
    task_grads = stack(rows())
    expected, _ = plain.update(task_grads, plain.init(PARAMS), PARAMS)
    actual, _ = tx.update(task_grads, tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(actual, expected, rtol=1e-6)
    assert isinstance(tx, aggregating.Aggregator)


@pytest.mark.standard_promotion
def test_runs_in_inject_hyperparams(factory):
    def optimizer(learning_rate):
        return optax.chain(factory(3), optax.sgd(learning_rate))

    tx = optax.inject_hyperparams(optimizer)(learning_rate=0.5)
    updates, state = tx.update(stack(rows()), tx.init(PARAMS), PARAMS)
    state.hyperparams["learning_rate"] = jnp.asarray(1.0)
    twice, _ = tx.update(stack(rows()), state, PARAMS)
    np.testing.assert_allclose(flat(twice), 2 * flat(updates), rtol=1e-6)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("factory", [mtl.mgda, mtl.primary_aux])
def test_is_itself_injectable(factory):
    for static, options in ((), {}), (("num_tasks",), {"num_tasks": 3}):
        tx = optax.inject_hyperparams(factory, static_args=static)(**options)
        updates, _ = tx.update(stack(rows()), tx.init(PARAMS), PARAMS)
        expected, _ = factory(3).update(stack(rows()), factory(3).init(PARAMS))
        chex.assert_trees_all_close(updates, expected, rtol=1e-6)


def test_unknown_extra_arguments_are_ignored_without_a_new_trace(factory):
    tx = factory(3)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(task_grads, state, value):
        return tx.update(task_grads, state, PARAMS, value=value, anything=None)

    chex.clear_trace_counter()
    state = tx.init(PARAMS)
    for seed in range(3):
        _, state = step(stack(rows(seed=seed)), state, jnp.asarray(seed))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_state_is_stable_from_init_through_scan(factory, dtype):
    params, grads = jax.tree.map(lambda leaf: leaf.astype(dtype), (PARAMS, stack(rows())))
    tx = factory(3)

    def body(state, _):
        update, state = tx.update(grads, state, params)
        return state, update

    state, updates = jax.jit(lambda s: jax.lax.scan(body, s, length=4))(tx.init(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(updates))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((tx.init(params), state)))


def test_init_accepts_whatever_optax_hands_it(factory):
    tx = factory(2)
    expected = jax.tree.structure(tx.init(PARAMS))
    shapes = jax.eval_shape(lambda: PARAMS)
    for params in (shapes, {}, None, {"w": None}, {"w": optax.MaskedNode()}):
        assert jax.tree.structure(tx.init(params)) == expected
    mapped = optax.tree.map_params(tx, lambda leaf: leaf + 1, tx.init(PARAMS))
    chex.assert_trees_all_equal(mapped, tx.init(PARAMS))


def test_float64_parameters_are_recorded_in_float64(factory):
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), PARAMS)
        tx = factory(3)
        grads = stack(rows().astype(np.float64))
        update, state = tx.update(grads, tx.init(params), params)
        assert state.gram.dtype == state.weights.dtype == update["w"].dtype == jnp.float64
        assert state.gap <= 1e-12


class TestNonFinite:
    """One task with a NaN or an infinity, under each policy."""

    @pytest.fixture(params=[np.nan, np.inf])
    def broken(self, request):
        task_grads = rows(4)
        task_grads[2, 7] = request.param
        return task_grads

    def test_propagate_lets_it_through(self, factory, broken):
        tx = factory(4)
        update, state = tx.update(stack(broken), tx.init(PARAMS))
        assert np.all(np.isnan(flat(update)))
        assert state.gap == jnp.inf
        np.testing.assert_array_equal(state.num_nonfinite, [0, 0, 1, 0])

    def test_skip_makes_no_step(self, factory, broken):
        tx = factory(4, nonfinite="skip")
        update, state = tx.update(stack(broken), tx.init(PARAMS))
        np.testing.assert_array_equal(flat(update), 0)
        np.testing.assert_array_equal(state.num_nonfinite, [0, 0, 1, 0])

    def test_drop_task_is_the_method_on_the_other_rows(self, factory, broken):
        tx = factory(4, nonfinite="drop_task")
        others = np.delete(broken, 2, axis=0)
        expected, _ = factory(3).update(stack(others), factory(3).init(PARAMS))
        actual, state = tx.update(stack(broken), tx.init(PARAMS))
        np.testing.assert_allclose(flat(actual), flat(expected), rtol=1e-4, atol=1e-5)
        assert state.weights[2] == 0
        assert state.gap <= 1e-5
        np.testing.assert_array_equal(state.num_nonfinite, [0, 0, 1, 0])

    def test_drop_task_without_any_task_left_makes_no_step(self, factory):
        tx = factory(3, nonfinite="drop_task")
        update, state = tx.update(stack(np.full((3, 21), np.nan, np.float32)), tx.init(PARAMS))
        np.testing.assert_array_equal(flat(update), 0)
        np.testing.assert_array_equal(state.num_nonfinite, [1, 1, 1])

    @pytest.mark.parametrize("policy", ["skip", "drop_task"])
    def test_finite_steps_are_the_same_under_every_policy(self, factory, policy):
        expected, _ = factory(3).update(stack(rows()), factory(3).init(PARAMS))
        tx = factory(3, nonfinite=policy)
        actual, _ = tx.update(stack(rows()), tx.init(PARAMS))
        np.testing.assert_allclose(flat(actual), flat(expected), rtol=1e-5, atol=1e-6)

    def test_a_run_recovers(self, factory, broken):
        tx = factory(4, nonfinite="drop_task")
        state = tx.init(PARAMS)
        for _ in range(100):
            _, state = tx.update(stack(broken), state)
        update, state = tx.update(stack(rows(4)), state)
        expected, _ = factory(4).update(stack(rows(4)), factory(4).init(PARAMS))
        np.testing.assert_allclose(flat(update), flat(expected), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(state.num_nonfinite, [0, 0, 100, 0])


def test_without_any_primary_left_the_auxiliaries_do_not_take_over():
    task_grads = rows(4)
    task_grads[0] = np.nan
    tx = mtl.primary_aux(4, nonfinite="drop_task")
    update, _ = tx.update(stack(task_grads), tx.init(PARAMS))
    np.testing.assert_array_equal(flat(update), 0)


def test_zero_gradients_have_a_defined_answer(factory):
    task_grads = rows()
    tx = factory(3)
    for row, expected in ((slice(None), np.zeros(21)), (0, None)):
        zeroed = task_grads.copy()
        zeroed[row] = 0
        update, state = tx.update(stack(zeroed), tx.init(PARAMS))
        if expected is not None or factory is not FACTORIES["primary_aux"]:
            np.testing.assert_array_equal(flat(update), 0)
        assert np.all(np.isfinite(state.weights))


def test_losses_reach_the_weighting_that_names_them():
    tx = mtl.mgda(3, normalization="loss")
    losses = jnp.array([1.0, 2.0, 4.0])
    update, state = tx.update(stack(rows()), tx.init(PARAMS), PARAMS, losses=losses)
    normalized = rows() / np.asarray(losses)[:, None]
    alpha = mtl.weightings.mgda(jnp.asarray(normalized @ normalized.T))
    np.testing.assert_allclose(state.weights, alpha / losses, rtol=1e-4)
    np.testing.assert_allclose(flat(update), np.asarray(alpha) @ normalized, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"normalization='loss' expected losses of shape \(3,\), got none"):
        tx.update(stack(rows()), tx.init(PARAMS), PARAMS)


def test_a_weighting_with_memory_keeps_it_in_the_state():
    counting = mtl.typing.StatefulWeighting(
        init=lambda num_tasks: jnp.zeros((), jnp.int32),
        update=lambda gram, count: (jnp.ones_like(gram[0]) * count.astype(gram.dtype), count + 1),
    )
    tx = mtl.aggregate(counting, 3)
    state = tx.init(PARAMS)
    for step in range(3):
        update, state = tx.update(stack(rows()), state)
        np.testing.assert_allclose(flat(update), step * rows().sum(axis=0), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="expected num_tasks for a method that keeps state"):
        mtl.aggregate(counting)


@pytest.mark.parametrize("solver", [mtl.solvers.frank_wolfe, mtl.solvers.min_norm])
def test_any_solver_of_the_family_trains(solver):
    tx = mtl.mgda(3, solver=solver)
    exact = mtl.mgda(3)
    update, state = tx.update(stack(rows()), tx.init(PARAMS))
    expected, _ = exact.update(stack(rows()), exact.init(PARAMS))
    np.testing.assert_allclose(flat(update), flat(expected), atol=1e-2)
    assert state.gap < 1e-2


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mtl.mgda(0), "num_tasks to be a positive int, got 0"),
        (lambda: mtl.mgda(jnp.asarray(2)), "list it in static_args"),
        (lambda: mtl.mgda(nonfinite="ignore"), "one of propagate, skip, drop_task, got 'ignore'"),
        (lambda: mtl.primary_aux(3, num_primary=4).update(stack(rows()), mtl.mgda(3).init(PARAMS)), "1 and the number"),
        (lambda: mtl.mgda(normalization="l1").update(stack(rows()), optax.EmptyState()), "one of none, l2, loss"),
    ],
)
def test_bad_options_are_one_clear_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_many_small_leaves_are_asked_together_for_what_is_not_finite():
    """XLA takes a compilation more than proportional to the number of leaves; several devices may split each leaf."""
    tx, rows = mtl.mean(2), [jnp.ones((2, width)) for width in range(1, 9)]
    state = tx.init([row[0] for row in rows])
    found = str(jax.make_jaxpr(tx.update)(rows, state)).count("reduce_and")
    assert found == (1 if jax.device_count() == 1 else len(rows))
    _, state = jax.jit(tx.update)([*rows[:-1], rows[-1].at[1, 2].set(jnp.inf)], state)
    np.testing.assert_array_equal(state.num_nonfinite, [0, 1])
