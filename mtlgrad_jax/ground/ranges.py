"""Powers of two from the bits of a float: scaling by them is exact, and cheap on every device."""

import jax
import jax.numpy as jnp
from jax import lax

_INTEGERS = {32: jnp.int32, 64: jnp.int64}


def exponent_of(x: jax.Array) -> jax.Array:
    """Return k with 2ᵏ ≤ x < 2ᵏ⁺¹ as int32, for x > 0; for zero and subnormals the smallest exponent.

    Args:
      x: Non-negative, finite, float32 or float64.

    Returns:
      k, same shape.
    """
    info = jnp.finfo(x.dtype)
    bits = lax.bitcast_convert_type(x, _INTEGERS[info.bits])
    biased = (bits >> info.nmant).astype(jnp.int32)
    return jnp.maximum(biased, 1) - (info.maxexp - 1)


def scale_by_power_of_two(x: jax.Array, exponent: jax.Array) -> jax.Array:
    """Return x · 2^exponent, exact unless the result leaves the range.

    Args:
      x: Float32 or float64.
      exponent: int32, at most twice the largest exponent of the type in magnitude.

    Returns:
      Same shape and dtype as x.
    """
    first, second = powers_of_two(exponent, x.dtype)
    return x * first * second


def powers_of_two(exponent: jax.Array, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
    """Return two powers of two whose product is 2^exponent, each of which is representable.

    Args:
      exponent: int32, at most twice the largest exponent of the type in magnitude.
      dtype: Float32 or float64.

    Returns:
      Two arrays of the shape of `exponent`, to multiply by one after the other.
    """
    half = exponent // 2
    return _power_of_two(half, dtype), _power_of_two(exponent - half, dtype)


def undo_scale(gram: jax.Array, exponent: jax.Array) -> jax.Array:
    """Return JJᵀ from the Gram matrix of 2⁻ᵏJ and k, as far as the type can hold it."""
    return scale_by_power_of_two(gram, 2 * exponent)


def _power_of_two(exponent, dtype):
    info = jnp.finfo(dtype)
    integer = _INTEGERS[info.bits]
    biased = jnp.clip(exponent + (info.maxexp - 1), 1, 2 * info.maxexp - 2).astype(integer)
    return lax.bitcast_convert_type(biased << info.nmant, dtype)
