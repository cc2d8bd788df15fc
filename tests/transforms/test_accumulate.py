"""Accumulation over micro-batches equals one step on the whole batch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import mtlgrad_jax as mtl

T, K = 3, 4
PARAMS = {"w": jax.random.normal(jax.random.key(0), (5, 2)), "b": jnp.ones(2), "step": jnp.arange(2)}
COUNTS = jnp.array([[1, 0, 2], [3, 1, 0], [0, 2, 2], [2, 0, 0]])  # (K, T)


def random_rows(number):
    key = jax.random.key(number)
    return {
        "w": jax.random.normal(key, (T, 5, 2)),
        "b": jax.random.normal(key, (T, 2)),
        "step": jnp.zeros((T, 2), jnp.int32),
    }


ROWS = [random_rows(number) for number in range(K)]


def run(tx, rows, counts=None, **extras):
    """Return the updates and states of all micro-steps."""
    state, history = tx.init(PARAMS), []
    for k, row in enumerate(rows):
        given = {} if counts is None else {"counts": counts[k]}
        given.update({name: value[k] for name, value in extras.items()})
        update, state = jax.jit(tx.update)(row, state, PARAMS, **given)
        history.append((update, state))
    return history


def weighted_mean(rows, counts):
    total = np.asarray(counts, np.float64).sum(0)

    def mean(*leaves):
        stack = np.stack([np.asarray(leaf, np.float64) for leaf in leaves])
        share = np.asarray(counts, np.float64) / total
        return jnp.asarray(np.einsum("kt,kt...->t...", share, stack), leaves[0].dtype)

    return jax.tree.map(mean, *rows)


def same(tree, wanted, tolerance=1e-5):
    return jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=tolerance, atol=tolerance), tree, wanted))


def zero(tree):
    return jax.tree.all(jax.tree.map(lambda leaf: jnp.all(leaf == 0), tree))


@pytest.mark.parametrize("counts", [None, COUNTS], ids=["equal", "unequal"])
def test_one_step_on_the_means_and_zero_in_between(counts):
    inner = mtl.mgda(num_tasks=T)
    history = run(mtl.accumulate(inner, K, T), ROWS, counts)
    wanted, wanted_state = inner.update(
        weighted_mean(ROWS, np.ones((K, T)) if counts is None else counts), inner.init(PARAMS), PARAMS
    )
    for update, state in history[:-1]:
        assert zero(update)
        chex.assert_trees_all_equal(state.inner, inner.init(PARAMS))
    assert same(history[-1][0], wanted)
    assert same(history[-1][1].inner.weights, wanted_state.weights)
    assert not zero(history[-1][0])


@pytest.mark.standard_promotion
def test_equals_the_gradient_of_the_whole_batch_with_partial_labels():
    """A task's loss is the mean over the examples that carry its label, whichever micro-batch they are in."""
    x = jax.random.normal(jax.random.key(1), (12, 5))
    mask = jnp.array(np.random.default_rng(0).integers(0, 2, (12, T)), jnp.float32)
    params = jax.random.normal(jax.random.key(2), (5, T))

    def losses_fn(params, x, mask):
        number = jnp.sum(mask, axis=0)
        return jnp.sum(mask * (jnp.tanh(x @ params) - 1) ** 2, axis=0) / jnp.where(number > 0, number, 1)

    inner = optax.chain(mtl.upgrad(), optax.adam(0.1))
    tx = mtl.accumulate(inner, 4, T)
    state = tx.init(params)
    for part in jnp.split(jnp.arange(12), 4):
        _, rows = mtl.task_value_and_grad(losses_fn)(params, x[part], mask[part])
        update, state = tx.update(rows, state, params, counts=jnp.sum(mask[part], axis=0))
    _, rows = mtl.task_value_and_grad(losses_fn)(params, x, mask)
    wanted, _ = inner.update(rows, inner.init(params), params)
    assert same(update, wanted, 1e-4)


def test_a_row_without_examples_may_hold_anything():
    spoiled = [
        jax.tree.map(
            lambda leaf, n=n: (
                jnp.where(n.reshape((T,) + (1,) * (leaf.ndim - 1)) > 0, leaf, jnp.nan)
                if leaf.dtype == jnp.float32
                else leaf
            ),
            row,
        )
        for row, n in zip(ROWS, COUNTS, strict=True)
    ]
    tx = mtl.accumulate(mtl.mgda(), K, T)
    chex.assert_trees_all_equal(run(tx, spoiled, COUNTS)[-1], run(tx, ROWS, COUNTS)[-1])


def test_a_task_missing_from_the_window_is_left_out():
    counts = COUNTS.at[:, 1].set(0)
    others = jax.tree.map(lambda leaf: leaf[jnp.array([0, 2])], weighted_mean(ROWS, counts.at[:, 1].set(1)))
    for inner in (mtl.mgda(), mtl.mean(), mtl.dualproj(), mtl.cagrad()):
        update = run(mtl.accumulate(inner, K, T), ROWS, counts)[-1][0]
        assert same(update, inner.update(others, inner.init(PARAMS), PARAMS)[0], 1e-4)
    assert zero(run(mtl.accumulate(mtl.mgda(), K, T, missing="zero"), ROWS, counts)[-1][0])
    assert zero(run(mtl.accumulate(mtl.mgda(), K, T), ROWS, 0 * counts)[-1][0])


def test_the_next_window_starts_afresh():
    tx = mtl.accumulate(mtl.mean(), 2, T)
    history = run(tx, ROWS, COUNTS)
    assert same(history[3][0], run(tx, ROWS[2:], COUNTS[2:])[-1][0])
    assert zero(history[2][0])


def test_a_nonfinite_micro_batch_reaches_the_policy_of_the_method_and_is_then_forgotten():
    bad = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan) if leaf.dtype == jnp.float32 else leaf, ROWS[0])
    tx = mtl.accumulate(mtl.mgda(num_tasks=T, nonfinite="drop_task"), 2, T)
    history = run(tx, [bad, ROWS[1], ROWS[2], ROWS[3]])
    assert history[1][1].inner.num_nonfinite.tolist() == [0, 1, 0]
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves([update for update, _ in history]))
    assert same(history[3][0], run(tx, ROWS[2:])[-1][0])


def test_losses_reach_the_method_as_means():
    losses = jnp.arange(1.0, K * T + 1).reshape(K, T)
    inner = mtl.mgda(normalization="loss")
    update = run(mtl.accumulate(inner, K, T), ROWS, COUNTS, losses=losses)[-1][0]
    means = jnp.sum(losses * COUNTS.astype(jnp.float32), axis=0) / jnp.sum(COUNTS, axis=0).astype(jnp.float32)
    wanted, _ = inner.update(weighted_mean(ROWS, COUNTS), inner.init(PARAMS), PARAMS, losses=means)
    assert same(update, wanted)


@pytest.mark.standard_promotion
def test_state_is_stable_under_scan():
    params = PARAMS["w"]
    tx = mtl.accumulate(optax.chain(mtl.mgda(num_tasks=T), optax.adam(0.1)), K, T)
    rows = jnp.stack([row["w"] for row in ROWS])

    def step(state, given):
        update, state = tx.update(given[0], state, params, counts=given[1])
        return state, update

    state, updates = jax.jit(lambda state: lax.scan(step, state, (rows, COUNTS)))(tx.init(params))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))
    assert jnp.all(updates[:-1] == 0)
    assert jnp.any(updates[-1] != 0)


def test_half_precision_leaves_are_averaged_in_float32():
    params = jnp.zeros(3, jnp.bfloat16)
    tx = mtl.accumulate(mtl.sum(), 2, 2)
    state = tx.init(params)
    assert state.task_grads.dtype == jnp.float32
    for value in (1.0, 2**-9):
        update, state = tx.update(jnp.full((2, 3), value, jnp.bfloat16), state, params)
    assert update.dtype == jnp.bfloat16
    assert jnp.all(state.task_grads == 0)


def test_init_accepts_shapes_and_no_leaves():
    tx = mtl.accumulate(mtl.mgda(num_tasks=2), 2, 2)
    tx.init({})
    tx.init({"w": jax.ShapeDtypeStruct((2, 3), jnp.float32), "none": None})


def test_errors_are_sentences():
    with pytest.raises(ValueError, match="expected every_k to be a positive int, got 0"):
        mtl.accumulate(mtl.mgda(), 0, 2)
    with pytest.raises(ValueError, match="expected num_tasks to be a positive int, got 2.0"):
        mtl.accumulate(mtl.mgda(), 2, 2.0)
    with pytest.raises(ValueError, match="expected missing to be one of mean, zero, got 'drop'"):
        mtl.accumulate(mtl.mgda(), 2, 2, missing="drop")
    tx = mtl.accumulate(mtl.mgda(), 2, T)
    with pytest.raises(ValueError, match=r"expected counts of shape \(3,\), one per task, got \(2,\)"):
        tx.update(ROWS[0], tx.init(PARAMS), PARAMS, counts=jnp.ones(2))
    with pytest.raises(ValueError, match="num_tasks=3, got T=2"):
        tx.update(jax.tree.map(lambda leaf: leaf[:2], ROWS[0]), tx.init(PARAMS), PARAMS)
