"""A method is charged for what it needs: counted in the program, not hoped of the compiler."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import PLAIN, draw, train
from jax import lax

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import matrix_free

T, WIDTH = 4, 8
RNG = np.random.default_rng(0)
X, Y = (jnp.asarray(RNG.standard_normal((16, width)), jnp.float32) for width in (WIDTH, T))
PARAMS = {
    name: jnp.asarray(RNG.standard_normal(shape) * 0.4, jnp.float32)
    for name, shape in (("trunk", (WIDTH, WIDTH)), ("heads", (WIDTH, T)))
}


def losses_fn(params):
    return jnp.mean((jnp.tanh(X @ params["trunk"]) @ params["heads"] - Y) ** 2, axis=0)


def jaxprs_in(equation):
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner


def products(jaxpr, inside_branches=True):
    """Count multiplications in matrix products; of the branches of a `cond` the most expensive one, or the cheapest."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * int(np.prod([shape[axis] for axis in contracted]))
        inner = [products(inner, inside_branches) for inner in jaxprs_in(equation)]
        if equation.primitive.name == "cond":
            total += max(inner) if inside_branches else min(inner)
        elif inner:
            total += sum(inner)
    return total


def count(function, *args, **options):
    return products(jax.make_jaxpr(function)(*args).jaxpr, **options)


PLAIN_STEP = count(jax.grad(lambda params: jnp.sum(losses_fn(params))), PARAMS)
SMALL = 20 * T**3  # products of T×T matrices


def weighting_of(name):
    weighting = getattr(mtl.weightings, name)
    if name == "constant":
        return lambda gram, **extras: mtl.weightings.constant(gram, weights=jnp.ones(T))
    if name == "random_weights":
        return mtl.weightings.keyed(weighting, key=0)
    return weighting() if "gram" not in weighting.__code__.co_varnames[:1] else weighting


def reads_gram(case):
    return getattr(case.make(min(3, case.claims.max_tasks or 3)).init(jnp.zeros(2)), "gram", None) is not None


LOSSES_ONLY = [case.name for case in PLAIN if not reads_gram(case)]


@pytest.mark.parametrize("case", [case for case in PLAIN if not case.on_rows], ids=str)
def test_a_method_keeps_no_gram_matrix_just_if_its_weights_do_not_depend_on_it(case):
    num_tasks = case.sizes[-1]
    weights = [train(case, draw(jacobian, num_tasks))[1].weights for jacobian in ("gaussian", "opposed", "spread_4")]
    depends = any(np.any(other != weights[0]) for other in weights[1:])
    assert depends == reads_gram(case)


@pytest.mark.parametrize("method", ["stacked", "matrix_free"])
@pytest.mark.parametrize("name", [name for name in LOSSES_ONLY if name != "constant"])
def test_losses_only_is_one_backward_pass(name, method):
    """Everything that is returned included."""
    direction = lambda params: mtl.descent_direction(losses_fn, params, weighting_of(name), method=method)
    assert count(direction, PARAMS) <= PLAIN_STEP + SMALL
    losses, update, info = direction(PARAMS)
    _, task_grads = mtl.task_value_and_grad(losses_fn)(PARAMS)
    expected = mtl.jacobians.stacked.combine(task_grads, info.weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), update, expected)
    assert info.gram is None and info.gap is None and np.all(info.finite)


@pytest.mark.parametrize("name", LOSSES_ONLY)
def test_losses_only_in_a_chain_multiplies_rows_once(name):
    case = next(case for case in PLAIN if case.name == name)
    tx, rows = case.make(3), jnp.asarray(RNG.standard_normal((3, 1000)), jnp.float32)
    state = tx.init(rows[0])
    step = lambda rows, state: tx.update(rows, state, losses=jnp.ones(3))
    assert count(step, rows, state) <= rows.size + SMALL
    assert count(lambda rows: mtl.mgda(3).update(rows, mtl.mgda(3).init(rows[0])), rows) > 3 * rows.size


WAYS = {
    "stacked": "stacked",
    "matrix_free": "matrix_free",
    "reverse": lambda *args, **options: matrix_free.linearize(*args, mode="reverse", **options),
}
EVERY = mtl.weightings.every_k(mtl.weightings.mgda, 3)


@pytest.mark.parametrize("method", WAYS)
def test_weights_every_k_steps_are_one_backward_pass_in_between(method):
    direction = lambda params, memory: mtl.descent_direction(
        losses_fn, params, EVERY, method=WAYS[method], memory=memory
    )
    memory = EVERY.init(T)
    assert count(direction, PARAMS, memory, inside_branches=False) <= PLAIN_STEP + SMALL
    assert count(direction, PARAMS, memory) > 2 * PLAIN_STEP
    anew = lambda params: mtl.descent_direction(losses_fn, params, mtl.weightings.mgda, method=WAYS[method])[2].weights

    def step(carry, _):
        params, memory = carry
        _, update, info = direction(params, memory)
        params = jax.tree.map(lambda p, u: p - 0.1 * u, params, update)
        return (params, info.memory), (info.weights, anew(carry[0]), info.gap)

    _, (used, fresh, gap) = lax.scan(step, (PARAMS, memory), length=7)
    for number in range(7):
        np.testing.assert_allclose(used[number], fresh[number - number % 3], atol=1e-4)
    assert np.all(gap < 1e-4) and np.abs(fresh - used).max() > 1e-3


def test_weights_are_computed_anew_on_demand():
    _, _, info = mtl.descent_direction(losses_fn, PARAMS, EVERY)
    moved = jax.tree.map(lambda leaf: leaf + 0.3, PARAMS)
    for refresh in (False, True):
        _, _, after = mtl.descent_direction(losses_fn, moved, EVERY, memory=info.memory, refresh=jnp.asarray(refresh))
        assert (np.abs(after.weights - info.weights).max() > 1e-3) == refresh
        assert after.memory.count == (1 if refresh else 2)


def conds(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "cond":
            yield equation
        for inner in jaxprs_in(equation):
            yield from conds(inner)


def test_a_population_saves_too():
    """Under `vmap` the branch stays a branch: what a step in between multiplies is K backward passes."""
    direction = lambda params, memory: mtl.descent_direction(losses_fn, params, EVERY, memory=memory)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), PARAMS)
    memory = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), EVERY.init(T))
    assert count(jax.vmap(direction), params, memory, inside_branches=False) <= 2 * (PLAIN_STEP + SMALL)
    _, update, info = jax.jit(jax.vmap(direction))(params, memory)
    alone = direction(jax.tree.map(lambda leaf: leaf[1], params), EVERY.init(T))
    np.testing.assert_allclose(info.weights[1], alone[2].weights, atol=1e-5)


@pytest.mark.parametrize("method", ["stacked", "matrix_free", "structured"])
def test_a_population_pays_for_no_rescue_that_nobody_needs(method):
    """Under `vmap` the rescue from over- and underflow stays a branch, which costs as much as what it rescues."""
    direction = lambda params: mtl.descent_direction(losses_fn, params, mtl.weightings.mgda, method=method)
    params = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), PARAMS)
    alone = count(direction, PARAMS, inside_branches=False)
    assert count(jax.vmap(direction), params, inside_branches=False) <= 2 * (alone + SMALL)
    scales = jnp.array([1.0, 1e-25])  # of which the second needs it
    scaled = lambda scale: mtl.descent_direction(
        lambda params: scale * losses_fn(params), PARAMS, mtl.weightings.mgda, method=method
    )[2]
    info = jax.vmap(scaled)(scales)
    np.testing.assert_array_equal(info.log2_scale == 0, [True, False])
    np.testing.assert_allclose(info.weights[1], info.weights[0], atol=1e-4)


def test_a_population_that_accumulates_weighs_only_with_the_last_batch():
    tx = mtl.accumulate(mtl.mgda(T), 2, T)
    rows = jnp.asarray(RNG.standard_normal((2, T, 1000)), jnp.float32)
    state = jax.vmap(tx.init)(rows[:, 0])
    update = jax.vmap(lambda rows, state: tx.update(rows, state))
    assert count(update, rows, state, inside_branches=False) == 0
    assert count(update, rows, state) > 2 * rows.size
    state = state._replace(micro_step=jnp.array([0, 1], jnp.int32))
    updates, _ = update(rows, state)
    assert not np.any(updates[0]) and np.any(updates[1])


def test_a_table_costs_the_rows_that_the_batch_touches():
    """Each of them once as a leaf: the same direction, and in a step with the table donated nothing of its size."""
    num_rows, numbers = 4096, jnp.asarray(RNG.integers(0, 4096, 16)).at[1].set(7).at[2].set(7)
    table = jnp.asarray(RNG.standard_normal((num_rows, WIDTH)), jnp.float32)

    def losses_of(rows, places):
        return losses_fn(PARAMS) + jnp.mean((jnp.tanh(rows[places]) @ PARAMS["heads"] - Y) ** 2, axis=0)

    def by_rows(table, numbers):
        distinct, places = jnp.unique(numbers, return_inverse=True, size=numbers.size, fill_value=num_rows)
        rows = table.at[distinct].get(mode="fill", fill_value=0)
        _, u, info = mtl.descent_direction(losses_of, rows, mtl.weightings.mgda, places, method="structured")
        return table.at[distinct].add(-u, mode="drop"), info.gram

    def whole(table, numbers):
        _, u, info = mtl.descent_direction(losses_of, table, mtl.weightings.mgda, numbers)
        return table - u, info.gram

    program = jax.jit(by_rows, donate_argnums=0).lower(table, numbers).compile()
    assert program.memory_analysis().temp_size_in_bytes < table.nbytes / 2
    assert program.cost_analysis()["bytes accessed"] < 2 * table.nbytes + 2**18
    expected, found = whole(table, numbers), program(jnp.copy(table), numbers)
    for ours, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-6)


def test_members_that_are_not_due_keep_their_weights_when_another_is():
    memory = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), EVERY.init(T))
    memory = memory._replace(count=jnp.array([0, 1]), weights=jnp.array([[0.0] * T, [1.0, 0.0, 0.0, 0.0]]))
    run = jax.vmap(lambda memory: mtl.descent_direction(losses_fn, PARAMS, EVERY, memory=memory)[2])
    info = run(memory)
    np.testing.assert_array_equal(info.weights[1], [1, 0, 0, 0])
    np.testing.assert_array_equal(info.memory.count, [1, 2])
    np.testing.assert_allclose(
        info.weights[0], mtl.descent_direction(losses_fn, PARAMS, mtl.weightings.mgda)[2].weights
    )


INSIDE = [mtl.weightings.mgda, mtl.weightings.pcd(), mtl.weightings.smoothed(mtl.weightings.upgrad)]


@pytest.mark.parametrize("inside", INSIDE)
def test_every_k_in_a_chain_computes_no_gram_matrix_in_between(inside):
    tx = optax.chain(mtl.aggregate(mtl.weightings.every_k(inside, 2), T), optax.sgd(0.1))
    rows = jnp.asarray(RNG.standard_normal((T, 1000)), jnp.float32)
    state = tx.init(rows[0])
    assert count(tx.update, rows, state, rows[0], inside_branches=False) <= rows.size + SMALL
    _, state = tx.update(rows, state, rows[0])
    before = state[0].weights
    _, state = tx.update(rows[::-1], state, rows[0])
    np.testing.assert_array_equal(state[0].weights, before)
    _, state = tx.update(rows[::-1], state, rows[0])
    assert np.abs(state[0].weights - before).max() > 1e-4
    kept = state[0].weights
    for refresh in (False, True):
        _, after = tx.update(rows, state, rows[0], refresh=jnp.asarray(refresh))
        assert np.any(after[0].weights != kept) == refresh
