"""The length of every row of J beside a number that it is compared with, at any scale."""

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax._powers_of_two import exponent_of, scale_by_power_of_two
from mtlgrad_jax.jacobians._contraction import parts, widest
from mtlgrad_jax.jacobians._mesh_axes import AxisName, by_axes, check_axes
from mtlgrad_jax.jacobians._scaled_gram import largest_per_row


def row_lengths(leaves: list[jax.Array], exponents: jax.Array, axis_name: AxisName) -> tuple[jax.Array, jax.Array]:
    """Measure every row of J in its own power of two.

    Ordinary gradients are read once, in the units of the caller, in which a square that underflows does not
    count beside one. Only if a square overflows they are read again, each row in units of its largest entry.

    ‖gᵢ‖ = 2^kᵢ · lengthᵢ

    Args:
      leaves: Floating or complex, `(T, *param_shape)`.
      exponents: The unit that matters to the caller, int32, shape `(T,)`.
      axis_name: Mesh axes to sum over, those of a leaf that is split over them.

    Returns:
      The lengths, shape `(T,)`, float32 or float64, and k, int32, shape `(T,)`. The length of a row that is
      not finite is not finite; no other is. One far below its unit may be zero.

    Raises:
      ValueError: If leaves differ over a mesh axis that `axis_name` does not name.
    """
    check_axes(leaves, axis_name)
    dtype = widest(leaves)
    squares = _squared_lengths(leaves, exponents, dtype, axis_name)
    none = jnp.zeros_like(squares, dtype=jnp.int32)  # varies over a mesh as the squares do

    def measure_again(squares):
        largest = largest_per_row(leaves, dtype, axis_name)
        own = exponent_of(jnp.where(jnp.isfinite(largest), largest, 0))
        return _squared_lengths(leaves, own, dtype, axis_name), own + none

    def keep(squares):
        return squares, exponents + none

    squares, exponents = lax.cond(jnp.all(jnp.isfinite(squares)), keep, measure_again, squares)
    return jnp.sqrt(squares), exponents


def per_row(values: jax.Array, leaf: jax.Array) -> jax.Array:
    """Give a vector of T numbers the trailing axes that it needs beside a leaf."""
    return values.reshape(values.shape + (1,) * (leaf.ndim - 1))


def _squared_lengths(leaves, exponents, dtype, axis_name):
    """Return ‖2^−kᵢ gᵢ‖² for every row."""

    def squares(part):
        unit = scale_by_power_of_two(part.astype(dtype), -per_row(exponents, part))
        return jnp.sum(unit * unit, axis=tuple(range(1, unit.ndim)))

    total = jnp.zeros((), dtype)
    for axes, group in by_axes(leaves, axis_name).items():
        part = sum(squares(part) for leaf in group for part in parts(leaf))
        total = total + (lax.psum(part, axes) if axes else part)
    return total
