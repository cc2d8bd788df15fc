"""Take the units out of a Gram matrix: exact solvers see cosines, never lengths."""

import jax
import jax.numpy as jnp
import numpy as np

from mtlgrad_jax._powers_of_two import exponent_of, scale_by_power_of_two


def without_scale(gram: jax.Array) -> jax.Array:
    """Multiply a Gram matrix by the power of two that brings its largest diagonal entry below one."""
    largest = jnp.maximum(jnp.max(jnp.diagonal(gram)), 0)
    return scale_by_power_of_two(gram, -1 - exponent_of(largest))


def row_norms(gram: jax.Array) -> jax.Array:
    """Return the length of every gradient, √Gᵢᵢ, shape `(T,)`."""
    return jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))


def reciprocal(x: jax.Array) -> jax.Array:
    """Return 1/x, and 0 where x = 0."""
    return jnp.where(x > 0, 1 / jnp.where(x > 0, x, 1), 0)


def normalize_rows(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scale a positive semi-definite matrix to a unit diagonal.

    Args:
      matrix: Shape `(n, n)`.

    Returns:
      The scaled matrix, with a one in place of a zero on the diagonal, and the lengths √Qᵢᵢ.
    """
    norms = row_norms(matrix)
    inverse = reciprocal(norms)
    scaled = matrix * inverse[:, None] * inverse[None, :]
    return jnp.where(np.eye(matrix.shape[0], dtype=bool), jnp.ones((), matrix.dtype), scaled), norms
