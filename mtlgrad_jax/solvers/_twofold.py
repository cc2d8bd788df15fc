"""Sums of products in twice the working precision, as an unevaluated sum of two floats.

A Gram matrix squares lengths: near opposition its products cancel to their last bits, and what is left of them
decides which task is hurt. Its entries are exact numbers all the same, so their products can be added exactly.
"""

import jax
import jax.numpy as jnp
from jax import lax

_HALVES = {32: (jnp.uint32, 12), 64: (jnp.uint64, 27)}  # how many of the low bits the upper half leaves out


def two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the rounded sum and its rounding error (Knuth 1969)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def dot(matrix: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return matrix·x as the sum of two floats.

    Halves of floats have exact products, so that no compiler can spoil them by fusing a product and a sum.

    Args:
      matrix: Shape `(m, n)`.
      x: Shape `(n,)`.

    Returns:
      Two vectors of shape `(m,)`, the second a rounding error of the first.
    """
    (high, low), (x_high, x_low) = _halve(matrix), _halve(x[None, :])
    products = high * x_high
    rest = (high * x_low + low * x_high) + low * x_low
    num_levels = (matrix.shape[1] - 1).bit_length()
    padding = ((0, 0), (0, 2**num_levels - matrix.shape[1]))
    pairs = jnp.pad(products, padding), jnp.pad(rest, padding)
    high, low = lax.fori_loop(0, num_levels, lambda _, pairs: _add_neighbours(*pairs), pairs)
    return high[:, 0], low[:, 0]


def _add_neighbours(high, low):
    """Halve the number of terms; the freed columns become zero, so that a loop can do it again."""
    total, error = two_sum(high[:, ::2], high[:, 1::2])
    error = error + (low[:, ::2] + low[:, 1::2])
    return jnp.concatenate([total, 0 * total], axis=1), jnp.concatenate([error, 0 * error], axis=1)


def _halve(x):
    integer, num_bits = _HALVES[jnp.finfo(x.dtype).bits]
    bits = lax.bitcast_convert_type(x, integer)
    high = lax.bitcast_convert_type((bits >> num_bits) << num_bits, x.dtype)
    return high, x - high
