"""Values that differ between the devices of a `shard_map`: over which axes, and what that means for a sum."""

import jax
from jax import lax

from mtlgrad_jax.jacobians._contraction import varying_axes

AxisName = str | tuple[str, ...] | None


def axis_names(axis_name: AxisName) -> tuple[str, ...]:
    """Return the names in an `axis_name` argument."""
    return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())


def split_axes(rows: list[jax.Array], losses: jax.Array) -> tuple[str, ...]:
    """Return the mesh axes over which gradients are pieces of a whole: they differ there, and their losses do not."""
    return tuple(sorted(frozenset().union(*map(varying_axes, rows)) - varying_axes(losses)))


def by_axes(leaves: list[jax.Array], axis_name: AxisName) -> dict[tuple[str, ...], list[jax.Array]]:
    """Group leaves by the named axes over which they are split; all of them where that is not tracked."""
    tracked = any(varying_axes(leaf) for leaf in leaves)
    groups = {}
    for leaf in leaves:
        axes = tuple(name for name in axis_names(axis_name) if not tracked or name in varying_axes(leaf))
        groups.setdefault(axes, []).append(leaf)
    return groups


def sum_of_pieces(parts: list[jax.Array], axis_name: AxisName) -> jax.Array:
    """Add what the leaves contribute to an inner product, one reduction for all that are split over the same axes."""
    sums = {axes: sum(group) for axes, group in by_axes(parts, axis_name).items()}
    return sum(lax.psum(part, axes) if axes else part for axes, part in sums.items())


def check_axes(leaves: list[jax.Array], axis_name: AxisName) -> None:
    """Raise a ValueError if leaves differ over a mesh axis that is not named, or may do so unnoticed."""
    if axis_name == ():
        return
    if axis_name is None and (silent := _untracked_axes()):
        raise ValueError(
            f"expected axis_name in a shard_map over {silent} that does not track which values differ (check_vma=False "
            "or pmap), got None; name the axes over which parameters are split, or pass axis_name=() if gradients are "
            "the same on every device, or to treat each on its own."
        )
    unnamed = sorted(frozenset().union(*map(varying_axes, leaves)) - set(axis_names(axis_name)))
    if unnamed:
        raise ValueError(
            f"expected task gradients that are the same on every device or split over axis_name={axis_name!r}, got "
            f"gradients that differ over the mesh axes {unnamed}; average those of a batch with jax.lax.pmean first, "
            "name the axes over which parameters are split, or pass axis_name=() to treat each device on its own."
        )


def average_losses(losses: jax.Array, params: list[jax.Array], axis_name: AxisName) -> jax.Array:
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
    if axis_name != () and (silent := _untracked_axes()):
        raise ValueError(
            f"expected a shard_map that tracks which values differ, got one over {silent} that does not; leave "
            "check_vma=True, or pass axis_name=() if every device holds all parameters and the whole batch."
        )
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


def _manual_axes():
    mesh = jax.sharding.get_abstract_mesh()
    return () if mesh.empty else mesh.manual_axes


def _untracked_axes():
    return sorted(name for name in _manual_axes() if name not in varying_axes(lax.axis_index(name)))
