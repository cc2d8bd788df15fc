"""Weights of every method differentiate: forward and reverse equal float64 differences, no NaN at a kink."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS, PLAIN, falling_losses

NUM_STEPS, NUM_PARAMS, STEP = 2, 6, 1e-6
DEGREES = {case.name: case.claims.degree for case in PLAIN}
# What works on rows has no weights to ask, and a variant is another function of J where it scales in another way.
WEIGHINGS = [
    case for case in METHODS if not case.on_rows and (not case.variant or case.claims.degree != DEGREES[case.name])
]


def num_tasks_of(case):
    return max(case.num_tasks, case.claims.min_tasks)


def differentiator(case):
    """Return a jitted function from J and its velocity to a value of the last weights, and its two derivatives."""
    num_tasks = num_tasks_of(case)
    tx, losses = case.make(num_tasks), falling_losses(num_tasks, NUM_STEPS).astype(float)
    direction = np.random.default_rng(1).standard_normal(num_tasks)

    def step(rows, state, losses):
        if not case.one_per_step:
            return tx.update(rows, state, **case.extras(rows, losses))[1]
        for task in range(num_tasks):
            _, state = tx.update(rows[task], state, task=task)
        return state

    def value(rows):
        state = tx.init(jnp.zeros(NUM_PARAMS, rows.dtype))
        for now in losses[: NUM_STEPS if "S" in case.claims.needs else 1]:
            state = step(rows, state, now)
        return jnp.dot(state.weights, direction)

    @jax.jit
    def differentiate(rows, tangent):
        here, push = jax.linearize(value, rows)
        (slopes,) = jax.linear_transpose(push, rows)(jnp.ones_like(here))
        return here, push(tangent), jnp.sum(slopes * tangent)

    return differentiate


def kinks(rows):
    yield "zero row", rows * (np.arange(len(rows)) != len(rows) - 1)[:, None]
    yield "zero first row", rows * (np.arange(len(rows)) != 0)[:, None]
    yield "all zero", 0 * rows
    yield "two alike", np.concatenate([rows[:1], rows[:1], rows[2:]])
    yield "two opposed", np.concatenate([rows[:1], -rows[:1], rows[2:]])


@pytest.mark.parametrize("case", WEIGHINGS, ids=str)
def test_weights_differentiate_both_ways_and_are_finite_at_kinks(case):
    rows, tangent = np.random.default_rng(0).standard_normal((2, num_tasks_of(case), NUM_PARAMS))
    with jax.enable_x64(True):
        differentiate = differentiator(case)
        after, before = (differentiate(rows + sign * STEP * tangent, tangent)[0] for sign in (1, -1))
        _, pushed, pulled = differentiate(rows, tangent)
        np.testing.assert_allclose(pushed, (after - before) / (2 * STEP), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(pulled, pushed, rtol=1e-8, atol=1e-12)
        for kink, where in kinks(rows):
            assert np.all(np.isfinite(differentiate(where, tangent))), kink
