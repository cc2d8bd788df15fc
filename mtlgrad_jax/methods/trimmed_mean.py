"""Trimmed mean: at every coordinate leave out the extremes."""

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.leaves import at_least_single, per_row
from mtlgrad_jax.ground.presence import number
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, RowMethod

CLAIMS = Claims(
    "coordinate mean without extremes", keeps="PF", needs="R", sums_to="1", costs="pass over J", min_tasks=3
)


def rows(*, trim: int = 1) -> RowMethod:
    """Return the method itself, for `descent_direction`; options as in `trimmed_mean`."""
    if trim < 0:
        raise ValueError(f"expected trim of at least 0, got {trim}.")

    def update(task_grads, state, *, present=None):
        return jax.tree.map(lambda leaf: _trim(leaf, trim, present), task_grads), None, state

    return RowMethod(lambda num_tasks, params: (), update, needs_num_tasks=False)


def trimmed_mean(
    num_tasks: int | None = None,
    *,
    trim: int = 1,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the mean of the task gradients without the extremes, coordinate by coordinate.

    Up to `trim` rows may be anything, and the update stays between the others.

    u = mean over i of the sorted gᵢ, without the `trim` smallest and the `trim` largest

    Args:
      num_tasks: T, see `aggregate`.
      trim: How many are left out at either end; zero for the mean.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients; the gradient itself when all tasks agree. NaN counts
      as largest, so with `"propagate"` up to `trim` bad rows do no harm. The update is no combination of the
      rows: `weights` in the state are zero. Where absent tasks leave no more than 2·trim, as many are left out as
      leave one or two. Real and imaginary parts are coordinates of their own.

    Raises:
      ValueError: See `aggregate`; if `trim` is negative, or in `update` if nothing is left.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.trimmed_mean(trim=1)
      >>> params = jnp.zeros(2)
      >>> task_grads = jnp.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [99.0, -99.0]])
      >>> tx.update(task_grads, tx.init(params))[0]
      Array([2.5, 5.5], dtype=float32)

    References:
      Yin et al., arXiv 1803.01498, definition 2.
    """
    return aggregate(rows(trim=trim), num_tasks, axis_name=axis_name, nonfinite=nonfinite)


def _trim(leaf, trim, present):
    num_tasks = leaf.shape[0]
    if 2 * trim >= num_tasks:
        raise ValueError(f"trimmed_mean expected more than 2·trim = {2 * trim} tasks, got {num_tasks}; lower trim.")
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros(leaf.shape[1:], leaf.dtype)
    if jnp.iscomplexobj(leaf):
        return jax.lax.complex(_trim(leaf.real, trim, present), _trim(leaf.imag, trim, present))
    if present is not None:
        return _trim_among(leaf, trim, present)
    wide = jnp.sort(leaf, axis=0)[trim : num_tasks - trim].astype(at_least_single(leaf.dtype))
    return jnp.mean(wide, axis=0).astype(leaf.dtype)


def _trim_among(leaf, trim, present):
    """Return the trimmed mean of the rows present, which are sorted to the front."""
    absent = jnp.broadcast_to(per_row(~present, leaf), leaf.shape)
    _, ordered = jax.lax.sort((absent, leaf), dimension=0, num_keys=2)
    count = jnp.sum(present, dtype=jnp.int32)
    trim = jnp.minimum(trim, jnp.maximum(count - 1, 0) // 2)
    rank = jnp.arange(leaf.shape[0], dtype=jnp.int32)
    kept = (rank >= trim) & (rank < count - trim)
    wide = jnp.where(per_row(kept, leaf), ordered.astype(at_least_single(leaf.dtype)), 0)
    return (jnp.sum(wide, axis=0) / number(kept, wide.dtype)).astype(leaf.dtype)
