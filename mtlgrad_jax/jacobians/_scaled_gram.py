"""The Gram matrix of a list of leaves: within the range of float32, and over the devices of a mesh."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax._powers_of_two import exponent_of, scale_by_power_of_two
from mtlgrad_jax.jacobians._contraction import contract, map_parts, parts, varying_axes, widest
from mtlgrad_jax.typing import Gram

AxisName = str | tuple[str, ...] | None


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
    dtype = widest(leaves)
    plain = _gram_of(leaves, dtype, axis_name)

    def rescale(plain):
        exponent = exponent_of(_largest(leaves, dtype, axis_name)) + 1
        return _gram_of(leaves, dtype, axis_name, exponent), exponent + _zero(plain)

    def keep(plain):
        return plain, _zero(plain)

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


def _gram_of(leaves, dtype, axis_name, exponent=None):
    """Return Σ over leaves of rows × rows; with an exponent, of rows times two to minus that power."""
    total = jnp.zeros((), dtype)
    for axes, group in by_axes(leaves, axis_name).items():
        if exponent is not None:
            group = [
                map_parts(lambda part: scale_by_power_of_two(part.astype(dtype), -exponent), leaf) for leaf in group
            ]
        part = sum(contract(leaf, leaf, 1).astype(dtype) for leaf in group)
        total = total + (lax.psum(part, axes) if axes else part)
    return total


def _largest(leaves, dtype, axis_name):
    """Return the largest finite magnitude in J, leaving out rows that are not finite."""
    per_row = largest_per_row(leaves, dtype, axis_name)
    return jnp.max(jnp.where(jnp.isfinite(per_row), per_row, 0))


def largest_per_row(leaves: list[jax.Array], dtype: jnp.dtype, axis_name: AxisName) -> jax.Array:
    """Return the largest magnitude of a real or imaginary part in every row, shape `(T,)`."""
    per_row = jnp.zeros((), dtype)
    for axes, group in by_axes(leaves, axis_name).items():
        peaks = [
            jnp.max(jnp.abs(part), axis=tuple(range(1, part.ndim)), initial=0).astype(dtype)
            for leaf in group
            for part in parts(leaf)
        ]
        peak = jnp.max(jnp.stack(peaks), axis=0)
        per_row = jnp.maximum(per_row, lax.pmax(peak, axes) if axes else peak)
    return per_row


def by_axes(leaves: list[jax.Array], axis_name: AxisName) -> dict[tuple[str, ...], list[jax.Array]]:
    """Group leaves by the named axes over which they are split; all of them where that is not tracked."""
    names = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())
    tracked = any(varying_axes(leaf) for leaf in leaves)
    groups = {}
    for leaf in leaves:
        axes = tuple(name for name in names if not tracked or name in varying_axes(leaf))
        groups.setdefault(axes, []).append(leaf)
    return groups


def check_axes(leaves: list[jax.Array], axis_name: AxisName) -> None:
    """Raise a ValueError if leaves differ over a mesh axis that is not named."""
    if axis_name == ():
        return
    named = {axis_name} if isinstance(axis_name, str) else set(axis_name or ())
    unnamed = sorted(frozenset().union(*map(varying_axes, leaves)) - named)
    if unnamed:
        raise ValueError(
            f"expected task gradients that are the same on every device or split over axis_name={axis_name!r}, got "
            f"gradients that differ over the mesh axes {unnamed}; average those of a batch with jax.lax.pmean first, "
            "name the axes over which parameters are split, or pass axis_name=() to treat each device on its own."
        )


def _zero(gram):
    return jnp.zeros_like(gram[0, 0], dtype=jnp.int32)
