"""Weights differentiate: forward and reverse equal finite differences in float64, and nothing is NaN at a kink."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlgrad_jax.solvers import alpha_fair, min_norm, nnls

NUM_TASKS = 4
# The second argument is data, so that one compilation asks all values of it.
PROGRAMS = {
    "min_norm": (lambda gram, num_simplex: min_norm(gram, num_simplex).x, (4, 2, 1)),
    "nnls": (lambda gram, row: nnls(gram, gram[row] - gram[0]).x, (1, 2)),
    "alpha_fair": (lambda gram, alpha: alpha_fair(gram, alpha=1.0 * alpha).x, (1, 2)),
}


def kinks(rows):
    yield "zero row", rows.at[1].set(0)
    yield "zero first row", rows.at[0].set(0)
    yield "all zero", 0 * rows
    yield "two alike", rows.at[1].set(rows[0])
    yield "two opposed", rows.at[1].set(-rows[0])


@pytest.mark.parametrize("name", PROGRAMS)
def test_derivatives_equal_finite_differences_and_are_finite_at_kinks(name):
    program, choices = PROGRAMS[name]
    step, rng = 1e-6, np.random.default_rng(9)
    direction = rng.standard_normal(NUM_TASKS)

    @jax.jit
    def differentiate(rows, tangent, choice):
        value = lambda rows: jnp.dot(direction, program(jnp.dot(rows, rows.T, precision="highest"), choice))
        pulled = jax.vmap(jax.grad(value))(rows[None])[0]  # which must batch
        return (*jax.jvp(value, (rows,), (tangent,)), jnp.sum(pulled * tangent))

    with jax.enable_x64(True):
        for choice in choices:
            rows, tangent = (jnp.asarray(x) for x in rng.standard_normal((2, NUM_TASKS, NUM_TASKS + 3)))
            after, before = (differentiate(rows + sign * step * tangent, tangent, choice)[0] for sign in (1, -1))
            _, pushed, pulled = differentiate(rows, tangent, choice)
            np.testing.assert_allclose(pushed, (after - before) / (2 * step), rtol=1e-6, atol=1e-7)
            np.testing.assert_allclose(pulled, pushed, rtol=1e-9, atol=1e-12)
            for kink, where in kinks(rows):
                assert np.all(np.isfinite(differentiate(where, tangent, choice))), (kink, choice)
