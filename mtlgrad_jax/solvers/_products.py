"""Products of a matrix with vectors that lose nothing to rounding, as unevaluated sums of two floats.

A Gram matrix squares lengths: near opposition its products cancel to their last bits, and what is left of them decides
which task is hurt. Its entries are exact numbers all the same. In digits of so few bits that sums of their products are
exact, these are ordinary matrix products (Ozaki et al. 2012), fast on any device and in any order.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two

EXTRA = 1.5  # digits hold this many times the bits of a float
EXACT = 2.0  # as many as there are in a product


class Digits(NamedTuple):
    """Σ dₖ 2^(exponent − kb), k = 1 … L, with integers |dₖ| ≤ 2^(b−1)."""

    digits: jax.Array  # (L·m, n)
    exponent: int
    extra: float


def of_matrix(matrix: jax.Array, exponent: int, extra: float = EXTRA) -> Digits:
    """Write a matrix with entries below 2^exponent in digits.

    Args:
      matrix: Shape `(m, n)`.
      exponent: An integer.
      extra: How many times the bits of a float the digits hold.

    Returns:
      `Digits`.
    """
    digits = _digits(matrix * 2.0 ** -(exponent + 1), matrix.shape[1], extra)
    return Digits(jnp.moveaxis(digits, -1, 0).reshape(-1, matrix.shape[1]), exponent + 1, extra)


def product(matrix: Digits, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return matrix·x, each component wrong by less than 2^(−(extra − .1)·bits of a float) of the largest possible one.

    Args:
      matrix: From `of_matrix`, shape `(m, n)`.
      x: Shape `(n,)`.

    Returns:
      Two vectors of shape `(m,)`, the second a rounding error of the first.
    """
    bits, num_digits = _layout(x.size, x.dtype, matrix.extra)
    exponent = exponent_of(jnp.max(jnp.abs(x))) + 2
    digits = _digits(scale_by_power_of_two(x, -exponent), x.size, matrix.extra)
    parts = dot(matrix.digits, digits).reshape(num_digits, -1, num_digits)
    high, low = 0 * parts[0, :, 0], 0 * parts[0, :, 0]
    for k in reversed(range(num_digits)):
        level = sum((parts[i, :, k - i] for i in range(1, k + 1)), parts[0, :, k]) * 2.0 ** (
            matrix.exponent - (k + 2) * bits
        )
        high, error = two_sum(level, high)
        low = low + error
    return scale_by_power_of_two(high, exponent), scale_by_power_of_two(low, exponent)


def product_of_sum(matrix: Digits, *parts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return matrix·Σxₖ, each part smaller than the one before, as `product` does."""
    highs, lows = jax.vmap(lambda x: product(matrix, x))(jnp.stack(parts))
    high, low = highs[0], lows[0]
    for more, rest in zip(highs[1:], lows[1:], strict=True):
        high, error = two_sum(high, more)
        low = low + (error + rest)
    return two_sum(high, low)


def two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the rounded sum and its rounding error (Knuth 1969)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _layout(num_terms, dtype, extra):
    """Return how many bits a digit has, so that a sum of products is exact, and how many digits there are."""
    precision = jnp.finfo(dtype).nmant + 1
    bits = (precision - math.ceil(math.log2(max(num_terms, 2)))) // 2 + 1
    return bits, math.ceil(extra * precision / bits)


def _digits(x, num_terms, extra):
    """Write numbers of magnitude below one half in digits, on a new last axis."""
    bits, num_digits = _layout(num_terms, x.dtype, extra)
    powers = np.asarray(2.0 ** (bits * np.arange(num_digits + 1)), x.dtype)
    rounded = jnp.round(x[..., None] * powers.reshape((1,) * x.ndim + (-1,)))
    return rounded[..., 1:] - rounded[..., :-1] * 2.0**bits
