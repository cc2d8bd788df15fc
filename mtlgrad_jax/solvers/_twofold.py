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
    zero = jnp.zeros((), matrix.dtype)
    return lax.reduce((products, rest), (zero, zero), _add, (1,))


def _add(left, right):
    total, error = two_sum(left[0], right[0])
    return total, (left[1] + right[1]) + error


def _halve(x):
    integer, num_bits = _HALVES[jnp.finfo(x.dtype).bits]
    bits = lax.bitcast_convert_type(x, integer)
    high = lax.bitcast_convert_type((bits >> num_bits) << num_bits, x.dtype)
    return high, x - high
