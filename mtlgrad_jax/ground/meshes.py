"""What is split over the devices of a `shard_map`, and every reduction over them: no other file sums over devices.

A leaf that differs between devices is a piece of a whole; a leaf that does not is whole on each and counts once.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

AxisName = str | tuple[str, ...] | None


def axis_names(axis_name: AxisName) -> tuple[str, ...]:
    """Return the names in an `axis_name` argument."""
    return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())


def varying_axes(leaf: jax.Array) -> frozenset[str]:
    """Return the mesh axes over which a leaf differs inside `shard_map`, empty if that is not tracked."""
    aval = jax.typeof(leaf)
    if hasattr(aval, "vma"):  # before jax 0.10
        return aval.vma
    return aval.manual_axis_type.varying


def split_axes(rows: Sequence[jax.Array], losses: jax.Array) -> tuple[str, ...]:
    """Return the mesh axes over which gradients are pieces of a whole: they differ there, and their losses do not."""
    return tuple(sorted(frozenset().union(*map(varying_axes, rows)) - varying_axes(losses)))


def sum_of_pieces(parts: Sequence[jax.Array], axis_name: AxisName) -> jax.Array:
    """Add what the leaves contribute to a sum, one reduction for all that are split over the same axes."""
    return _reduce(parts, axis_name, jnp.add, lax.psum)


def largest_of_pieces(parts: Sequence[jax.Array], axis_name: AxisName) -> jax.Array:
    """Return the largest of what the leaves contribute, entry by entry."""
    return _reduce(parts, axis_name, jnp.maximum, lax.pmax)


def all_of_pieces(flags: Sequence[jax.Array], axis_name: AxisName) -> jax.Array:
    """Tell whether something is true of every piece of every leaf."""
    return largest_of_pieces([(~flag).astype(jnp.int32) for flag in flags], axis_name) == 0


def own_key(key: jax.Array, leaf: jax.Array) -> jax.Array:
    """Return the key of this device's piece of a leaf, so that no two pieces draw the same numbers."""
    for name in sorted(varying_axes(leaf)):
        key = jax.random.fold_in(key, lax.axis_index(name))
    return key


def _reduce(
    parts: Sequence[jax.Array], axis_name: AxisName, join: Callable[..., jax.Array], over: Callable[..., jax.Array]
) -> jax.Array:
    totals: dict[tuple[str, ...], jax.Array] = {}
    for part in parts:
        axes = tuple(name for name in axis_names(axis_name) if name in varying_axes(part))
        totals[axes] = join(totals[axes], part) if axes in totals else part
    whole = [over(total, axes) if axes else total for axes, total in totals.items()]
    result = whole[0]
    for other in whole[1:]:
        result = join(result, other)
    return result


def check_axes(leaves: Sequence[jax.Array], axis_name: AxisName) -> None:
    """Raise a ValueError if leaves differ over a mesh axis that is not named, or may do so unnoticed."""
    if axis_name == ():
        return
    _check_tracked("gradients are the same on every device, or to treat each on its own")
    unnamed = sorted(frozenset().union(*map(varying_axes, leaves)) - set(axis_names(axis_name)))
    if unnamed:
        raise ValueError(
            f"expected task gradients that are the same on every device or split over axis_name={axis_name!r}, got "
            f"gradients that differ over the mesh axes {unnamed}; average those of a batch with jax.lax.pmean first, "
            "name the axes over which parameters are split, or pass axis_name=() to treat each device on its own."
        )


def average_losses(losses: jax.Array, params: Sequence[jax.Array], axis_name: AxisName) -> jax.Array:
    """Average the losses over the axes that split the batch, so that what is differentiated is the loss of all of it.

    Args:
      losses: Shape `(T,)`.
      params: The leaves with respect to which they will be differentiated.
      axis_name: Mesh axes; those over which the losses are the same already count as done.

    Returns:
      Losses that are the same on every device, or differ as the parameters do where `axis_name` is `()`.

    Raises:
      ValueError: If devices would differentiate losses of their own with respect to parameters that they share.
    """
    if axis_name != ():
        _check_tracked("every device holds all parameters and the whole batch")
    if unbound := sorted(set(axis_names(axis_name)) - set(_manual_axes())):
        raise ValueError(
            f"expected axis_name to name axes of the shard_map around, got {unbound}; leave it out elsewhere."
        )
    split = tuple(name for name in axis_names(axis_name) if name in varying_axes(losses))
    losses = lax.pmean(losses, split) if split else losses
    differing = varying_axes(losses)
    on_its_own = axis_name == () and all(differing <= varying_axes(leaf) for leaf in params)
    if differing and not on_its_own:
        raise ValueError(
            "expected losses that are the same on every device, got losses that differ over the mesh axes "
            f"{sorted(differing)}; name the axes that split the batch in axis_name to average the losses over them, "
            "or, for parameters that differ over them too, pass axis_name=() to treat each device on its own."
        )
    return losses


def _check_tracked(condition):
    """Refuse a mesh on which a leaf that is whole on every device cannot be told from a piece of one."""
    if silent := [name for name in _manual_axes() if name not in varying_axes(lax.axis_index(name))]:
        raise ValueError(
            f"expected a shard_map that tracks which values differ, got one over {sorted(silent)} that does not "
            "(check_vma=False, or pmap), where a whole leaf cannot be told from a piece of one; leave check_vma=True, "
            f"or pass axis_name=() if {condition}."
        )


def _manual_axes():
    mesh = jax.sharding.get_abstract_mesh()
    return () if mesh.empty else mesh.manual_axes
