"""Small Gram matrices: what one is, products in full precision, lengths, and the same without units."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two

dot = partial(jnp.dot, precision=lax.Precision.HIGHEST)  # which TPUs and GPUs must not round to bfloat16 or TF32


def check_gram(gram: jax.Array) -> int:
    """Return T, or explain what a Gram matrix is."""
    if not hasattr(gram, "ndim") or not hasattr(gram, "dtype"):
        raise ValueError(
            f"expected a Gram matrix, a float array of shape (T, T), got a {type(gram).__name__}; {_MADE}."
        )
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or gram.shape[0] == 0:
        raise ValueError(f"expected a Gram matrix of shape (T, T), got {gram.shape}; {_MADE}, batch with jax.vmap.")
    if gram.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"expected a float32 or float64 Gram matrix, got {gram.dtype}; {_MADE}.")
    return gram.shape[0]


def check_memory(remembered: jax.Array, gram: jax.Array) -> None:
    """Explain that a state is that of another number of tasks; `remembered` is one of its leaves, of length T."""
    num_tasks = check_gram(gram)
    if jnp.shape(remembered)[0] != num_tasks:
        raise ValueError(
            f"expected a state for T={num_tasks}, as the Gram matrix is, got one for T={jnp.shape(remembered)[0]}; "
            f"begin with init({num_tasks})."
        )


_MADE = "make it from stacked task gradients with mtl.jacobians.stacked.gram"


def diagonal(matrix: jax.Array) -> jax.Array:
    """Return the diagonal of a square matrix; a sum starts sooner than the gather of `jnp.diagonal`."""
    return jnp.sum(jnp.where(np.eye(matrix.shape[0], dtype=bool), matrix, 0), axis=1)


def without_scale(gram: jax.Array) -> jax.Array:
    """Multiply a Gram matrix by the power of two that brings its largest diagonal entry below one."""
    largest = jnp.maximum(jnp.max(diagonal(gram)), 0)
    return scale_by_power_of_two(gram, -1 - exponent_of(largest))


def row_norms(gram: jax.Array) -> jax.Array:
    """Return the length of every gradient, √Gᵢᵢ, shape `(T,)`; at a zero row its derivative is zero."""
    squares = diagonal(gram)
    none = squares <= 0  # what is NaN stays NaN
    return jnp.where(none, 0, jnp.sqrt(jnp.where(none, 1, squares)))


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


def round_lengths(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Scale a positive semi-definite matrix by powers of two, that is exactly, to a diagonal between one and four.

    Args:
      matrix: Shape `(n, n)`.

    Returns:
      The scaled matrix, with a one in place of a zero on the diagonal, and the factor of every row, zero for a
      zero row.
    """
    lengths = row_norms(matrix)
    unit = scale_by_power_of_two(jnp.ones_like(lengths), -exponent_of(lengths))
    unit = jnp.where(lengths > 0, unit, 0)
    scaled = matrix * unit[:, None] * unit[None, :]
    absent = jnp.where(np.eye(matrix.shape[0], dtype=bool), (lengths == 0).astype(matrix.dtype)[None, :], 0)
    return scaled + absent, unit
