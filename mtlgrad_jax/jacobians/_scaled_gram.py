"""The Gram matrix of a list of leaves: within the range of float32, and over the devices of a mesh."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.leaves import as_matrix, at_once, contract_matrices, parts, widest
from mtlgrad_jax.ground.meshes import AxisName, check_axes, sum_of_pieces
from mtlgrad_jax.ground.ranges import exponent_of, powers_of_two
from mtlgrad_jax.ground.rows import largest_per_row
from mtlgrad_jax.typing import Gram


@partial(jax.jit, static_argnames="axis_name")
def scaled_gram_of(leaves: list[jax.Array], axis_name: AxisName) -> tuple[Gram, jax.Array]:
    """Compute the Gram matrix of 2⁻ᵏJ and k; see `stacked.scaled_gram`, which checks the task axis.

    Args:
      leaves: Floating or complex, `(T, *param_shape)`.
      axis_name: Mesh axes to sum over, those of a leaf that is split over them.

    Returns:
      G, shape `(T, T)`, and k, an int32 scalar.

    Raises:
      ValueError: If leaves differ over a mesh axis that `axis_name` does not name.
    """
    check_axes(leaves, axis_name)
    leaves = [part for leaf in leaves for part in parts(leaf)]
    if jax.device_count() > 1:
        return _scaled_gram(leaves, at_once, axis_name)
    return lax.platform_dependent(
        leaves,
        cpu=lambda leaves: _scaled_gram([as_matrix(leaf) for leaf in leaves], contract_matrices, axis_name),
        default=lambda leaves: _scaled_gram(leaves, at_once, axis_name),
    )


def _scaled_gram(leaves, product, axis_name):
    dtype = widest(leaves)

    def gram_of(leaves):
        return sum_of_pieces([product(leaf, leaf).astype(dtype) for leaf in leaves], axis_name)

    def rescale(plain):
        exponent = exponent_of(_largest(leaves, dtype, axis_name)) + 1
        first, second = powers_of_two(-exponent, dtype)
        return gram_of([leaf.astype(dtype) * first * second for leaf in leaves]), exponent + _zero(plain)

    def keep(plain):
        return plain, _zero(plain)

    plain = gram_of(leaves)
    return lax.cond(out_of_range(jnp.diagonal(plain)), rescale, keep, plain)


def out_of_range(squared_lengths: jax.Array) -> jax.Array:
    """Tell whether squares left the range of their type: overflow, underflow, or zeros that may be underflow.

    Args:
      squared_lengths: The diagonal of a Gram matrix, shape `(T,)`.

    Returns:
      A boolean scalar. A zero counts only if the longest gradient is short too.
    """
    info = jnp.finfo(squared_lengths.dtype)
    near_underflow = squared_lengths < info.tiny / info.eps
    hidden = (squared_lengths > 0) | (jnp.max(squared_lengths) < info.tiny**0.25)
    return jnp.any(~(squared_lengths < info.max / 2**8) | (near_underflow & hidden))


def _largest(leaves, dtype, axis_name):
    """Return the largest finite magnitude in J, leaving out rows that are not finite."""
    per_row = largest_per_row(leaves, dtype, axis_name)
    return jnp.max(jnp.where(jnp.isfinite(per_row), per_row, 0))


def _zero(gram):
    return jnp.zeros_like(gram[0, 0], dtype=jnp.int32)
