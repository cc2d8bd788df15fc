"""Rows brought to unit size by powers of two, so that no product of two gradients leaves the floating-point range."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.leaves import map_parts, parts
from mtlgrad_jax.ground.meshes import largest_of_pieces
from mtlgrad_jax.ground.ranges import exponent_of, powers_of_two, scale_by_power_of_two
from mtlgrad_jax.jacobians._scaled_gram import out_of_range
from mtlgrad_jax.typing import Gram


def to_unit(
    leaves: list[jax.Array], dtype: jnp.dtype, split: tuple[str, ...] = ()
) -> tuple[list[jax.Array], jax.Array]:
    """Divide one gradient by the power of two that brings its largest entry between one and two.

    Args:
      leaves: Floating or complex, of any shapes.
      dtype: In which to scale, float32 or float64.
      split: Mesh axes over which the leaves are pieces of one gradient.

    Returns:
      2⁻ᵏg in the dtypes of the leaves, exact unless an entry is 2¹²⁶ times smaller than the largest, and k, an
      int32 scalar. A gradient that is zero or not finite stays so; its k is the smallest exponent.
    """
    peaks = [jnp.max(jnp.abs(part), initial=0).astype(dtype) for leaf in leaves for part in parts(leaf)]
    peak = largest_of_pieces(peaks, split)
    exponent = exponent_of(jnp.where(jnp.isfinite(peak), peak, 0))
    first, second = powers_of_two(-exponent, dtype)

    def scale(part):
        return (part.astype(dtype) * first * second).astype(part.dtype)

    return [map_parts(scale, leaf) for leaf in leaves], exponent


def undo_unit(unit_gram: Gram, exponents: jax.Array) -> tuple[Gram, jax.Array]:
    """Turn the Gram matrix of rows 2⁻ᵏⁱgᵢ into that of 2⁻ᵏJ, with k = 0 unless squares leave the range.

    Args:
      unit_gram: Shape `(T, T)`.
      exponents: kᵢ, int32, shape `(T,)`.

    Returns:
      G, shape `(T, T)`, and k, an int32 scalar: JJᵀ = 4ᵏG, as `stacked.scaled_gram` promises.
    """
    both = exponents[:, None] + exponents[None, :]
    lengths = scale_by_power_of_two(jnp.diagonal(unit_gram), 2 * exponents)
    common = jnp.where(out_of_range(lengths), jnp.max(exponents) + 1, 0)
    return scale_by_power_of_two(unit_gram, both - 2 * common), common
