"""Weights differentiate: forward and reverse equal finite differences in float64, and nothing is NaN at a kink."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlgrad_jax import weightings
from mtlgrad_jax.solvers import alpha_fair, max_min_in_ball, min_norm, nnls

PROGRAMS = {
    "min_norm": lambda gram: min_norm(gram).x,
    "mixed": lambda gram: min_norm(gram, 2).x,
    "primary_aux": lambda gram: min_norm(gram, 1).x,
    "nnls": lambda gram: nnls(gram, -gram[0] + gram[1]).x,
    "upgrad": weightings.upgrad,
    "alpha_fair": lambda gram: alpha_fair(gram).x,
    "alpha_fair_2": lambda gram: alpha_fair(gram, alpha=2.0).x,
    "max_min_in_ball": lambda gram: max_min_in_ball(gram, gram[0] * 0 + 1 / gram.shape[0], 0.5).x,
}


def gram_of(task_grads):
    return jnp.dot(task_grads, task_grads.T, precision="highest")


def value_of(program, num_tasks, dtype):
    direction = jnp.asarray(np.random.default_rng(9).standard_normal(num_tasks), dtype)
    return lambda task_grads: direction @ program(gram_of(task_grads))


@pytest.mark.parametrize("name", PROGRAMS)
def test_forward_and_reverse_equal_finite_differences(name):
    step, num_tasks = 1e-6, 4
    with jax.enable_x64(True):
        value = jax.jit(value_of(PROGRAMS[name], num_tasks, jnp.float64))
        push = jax.jit(lambda rows, tangent: jax.jvp(value, (rows,), (tangent,))[1])
        pull = jax.jit(jax.grad(value))
        for seed in range(2):
            rng = np.random.default_rng(seed)
            rows, tangent = (jnp.asarray(x) for x in rng.standard_normal((2, num_tasks, num_tasks + 3)))
            expected = (value(rows + step * tangent) - value(rows - step * tangent)) / (2 * step)
            np.testing.assert_allclose(push(rows, tangent), expected, rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(jnp.sum(pull(rows) * tangent), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", PROGRAMS)
def test_derivatives_are_finite_at_kinks_and_zero_rows(name):
    slope = jax.jit(jax.grad(value_of(PROGRAMS[name], 3, jnp.float32)))
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5)), jnp.float32)
    for kink in (rows.at[1].set(0), rows.at[0].set(0), 0 * rows, rows.at[1].set(rows[0]), rows.at[1].set(-rows[0])):
        assert np.all(np.isfinite(slope(kink)))


def test_derivatives_batch_and_repeat():
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3, 6)), jnp.float32)
    value = value_of(PROGRAMS["min_norm"], 3, jnp.float32)
    batched = jax.vmap(jax.grad(value))(rows)
    for one, expected in zip(rows, batched, strict=True):
        np.testing.assert_allclose(jax.grad(value)(one), expected, atol=1e-5)
