"""A user's own method, of any kind and through public names only, in both ways to take a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import draw

import mtlgrad_jax as mtl
from mtlgrad_jax.typing import Method, RowMethod, StatefulWeighting

ROWS = jnp.asarray(draw("gaussian", 3)[:, :6])
PARAMS = jnp.zeros(6)


def by_transformation(method, rows=ROWS, state=None, nonfinite="propagate", **extras):
    """Return the update, the weights, the gap, the memory, and the state for the next step."""
    tx = mtl.aggregate(method, 3, nonfinite=nonfinite)
    step = jax.jit(lambda rows, state, extras: tx.update(rows, state, PARAMS, **extras))
    update, state = step(rows, tx.init(PARAMS) if state is None else state, extras)
    return update, state.weights, state.gap, state.memory, state


def by_descent(method, rows=ROWS, state=None, nonfinite="propagate", **extras):
    """The same of linear losses, whose gradients are the rows; each is pulled back alone, and breaks alone."""
    _, update, info = jax.jit(
        lambda rows, memory, extras: mtl.descent_direction(
            [jnp.vdot] * 3, PARAMS, method, list(rows), method="separate", memory=memory, nonfinite=nonfinite, **extras
        )
    )(rows, state, extras)
    return update, info.weights, info.gap, info.memory, info.memory


both_ways = pytest.mark.parametrize("take", [by_transformation, by_descent])


def preferred(gram, *, preference, scale=1.0):
    return scale * preference.astype(gram.dtype) + 0 * gram[0]


@both_ways
def test_any_keyword_that_a_weighting_names_reaches_it_at_every_step(take):
    for preference in (jnp.array([1.0, 2.0, 3.0]), jnp.array([0.0, 0.0, 1.0])):
        update, weights, *_ = take(preferred, preference=preference, unknown=1.0)
        np.testing.assert_array_equal(weights, preference)
        np.testing.assert_allclose(update, preference @ ROWS, rtol=1e-5)
        np.testing.assert_array_equal(take(preferred, preference=preference, scale=2.0)[1], 2 * preference)
    with pytest.raises(ValueError, match="preferred expected preference at every step, got none"):
        take(preferred)


def test_a_weighting_with_memory_is_given_what_it_names_too():
    def update(gram, total, *, preference):
        total = total + preference
        return total.astype(gram.dtype), total

    averaging = StatefulWeighting(lambda num_tasks: jnp.zeros(num_tasks), update)
    for take in (by_transformation, by_descent):
        state = None
        for step in range(1, 4):
            *_, state = taken = take(averaging, state=state, preference=jnp.array([1.0, 2.0, 3.0]))
            np.testing.assert_array_equal(taken[1], step * np.array([1.0, 2.0, 3.0]))


def median(task_grads, count, *, axis_name=None, losses=None, sign=1.0):
    """The coordinate median, on rows, with a count for memory."""
    del axis_name, losses
    return jax.tree.map(lambda leaf: sign * jnp.median(leaf, axis=0), task_grads), None, count + 1


MEDIAN = RowMethod(lambda num_tasks, params: jnp.zeros((), jnp.int32), median)


@both_ways
def test_a_method_on_rows(take):
    state = None
    for step in range(1, 3):
        update, weights, gap, memory, state = take(MEDIAN, state=state, sign=-1.0)
        np.testing.assert_allclose(update, -np.median(ROWS, axis=0), rtol=1e-6)
        np.testing.assert_array_equal(weights, 0)  # its update is no combination of rows
        assert memory == step
        slopes = np.asarray(ROWS @ update) / np.linalg.norm(ROWS, axis=1)
        np.testing.assert_allclose(gap, -slopes.min() / np.linalg.norm(ROWS, axis=1).max(), rtol=1e-4)


@both_ways
def test_a_method_on_rows_under_a_policy(take):
    broken = ROWS.at[1, 2].set(jnp.nan)
    update, *_, memory, _ = take(MEDIAN, rows=broken, nonfinite="skip")
    assert not np.any(update) and memory == 0
    update, *_, memory, _ = take(MEDIAN, rows=broken, nonfinite="drop_task")
    np.testing.assert_allclose(update, (ROWS[0] + ROWS[2]) / 2, rtol=1e-5)  # their mean stands in, and is the median
    assert memory == 1


def first_of(gram):
    return (jnp.arange(gram.shape[0]) == 0).astype(gram.dtype)


def largest_weight(gram, weights):
    return jnp.max(weights) + 0 * gram[0, 0]


@both_ways
def test_a_method_with_a_certificate_and_a_primary(take):
    method = Method(first_of, certificate=largest_weight, num_primary=1)
    update, weights, gap, *_ = take(method)
    np.testing.assert_allclose(update, ROWS[0], rtol=1e-6)
    np.testing.assert_array_equal(weights, [1, 0, 0])
    assert gap == 1
    without_primary = ROWS.at[0, 0].set(jnp.inf)
    update, weights, *_ = take(method, rows=without_primary, nonfinite="drop_task")
    assert not np.any(update) and not np.any(weights)  # nobody stands in for it
    update, weights, *_ = take(first_of, rows=without_primary, nonfinite="drop_task")
    np.testing.assert_allclose(update, (ROWS[1] + ROWS[2]) / 2, rtol=1e-5)  # among equals the others do


def test_the_gap_of_a_broken_step_is_infinite_whatever_the_certificate_says():
    broken = ROWS.at[1, 2].set(jnp.nan)
    for take in (by_transformation, by_descent):
        assert take(Method(first_of, certificate=largest_weight), rows=broken)[2] == jnp.inf


@both_ways
def test_tasks_that_take_no_part(take):
    present = jnp.array([True, False, True])
    update, weights, *_ = take(mtl.weightings.mean, rows=ROWS.at[1].set(jnp.nan), present=present)
    np.testing.assert_allclose(update, (ROWS[0] + ROWS[2]) / 2, rtol=1e-5)
    np.testing.assert_allclose(weights, [0.5, 0, 0.5])
    seen = lambda gram, *, present: present.astype(gram.dtype)
    np.testing.assert_array_equal(take(seen, present=present)[1], present)
