"""Products that are added as if no float were rounded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlgrad_jax.solvers import _twofold


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.vmap])
def test_cancelling_products_keep_their_last_bits(transform):
    rng = np.random.default_rng(0)
    matrix, x = rng.standard_normal((40, 64)).astype(np.float32), rng.standard_normal(64).astype(np.float32)
    matrix[:, -1] = -(matrix[:, :-1] @ x[:-1]) / x[-1]
    exact = matrix.astype(np.float64) @ x.astype(np.float64)
    arguments = (jnp.asarray(matrix), jnp.asarray(x))
    if transform is jax.vmap:
        arguments = tuple(argument[None] for argument in arguments)
    high, low = transform(_twofold.dot)(*arguments)
    error = np.abs(np.float64(high).ravel() + np.float64(low).ravel() - exact).max()
    plain = np.abs(np.float64(matrix @ x) - exact).max()
    assert error < 1e-8 < plain


def test_a_sum_and_its_rounding_error():
    total, error = jax.jit(_twofold.two_sum)(jnp.float32(1.0), jnp.float32(1e-9))
    assert total == 1 and error == jnp.float32(1e-9)
