"""Dual balancing (DB-MTL) as an Optax transformation."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.ground.leaves import at_least_single, cast_like, times
from mtlgrad_jax.ground.rows import move_towards, zeros_like_rows
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.transforms._rows import build_rows
from mtlgrad_jax.typing import PyTree, RowMethod


class LossBalancedState(NamedTuple):
    """What `loss_balanced` remembers; as much memory as T gradients."""

    averages: PyTree  # leaves (T, *param_shape), of the gradients of the logarithms
    count: jax.Array  # () int32


def loss_balanced(
    num_tasks: int | None = None,
    *,
    beta: optax.ScalarOrSchedule = 0.9,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the averaged gradients of the logarithms of the losses, all made as long as the longest.

    ĝᵢ ← βĝᵢ + (1−β)gᵢ/Lᵢ,   u = Σ αᵢĝᵢ,   αᵢ = maxⱼ‖ĝⱼ‖ / ‖ĝᵢ‖

    Args:
      num_tasks: T, needed: the state holds T gradients. `aggregate(weightings.loss_balanced)` is the method
        without memory, β = 0.
      beta: β, a number or an Optax schedule; the published code divides it by the root of the step.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`. The
      average starts at the first gradient (in the published code at zero, which shortens the first updates).
      `weights` in the state are α, on ĝ: they sum to T when all tasks agree. A loss that is not positive counts
      as a zero gradient.

    Raises:
      ValueError: See `aggregate`; in `update`, without losses.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> tx = mtl.loss_balanced(num_tasks=2)
      >>> state = tx.init(jnp.zeros(2))
      >>> tx.update(jnp.diag(jnp.array([1.0, 2.0])), state, losses=jnp.array([1.0, 0.5]))[0]
      Array([4., 4.], dtype=float32)

    References:
      Lin et al. (DB-MTL), arXiv 2308.12029.
    """

    def init(num_tasks, params):
        return LossBalancedState(zeros_like_rows(params, num_tasks), jnp.zeros((), jnp.int32))

    def update(task_grads, state, *, losses=None):
        share = 1 - (beta(state.count) if callable(beta) else beta)
        share = jnp.where(state.count > 0, share, 1.0)
        relative = _divide(task_grads, weightings.si(jnp.eye(stacked.count_tasks(task_grads)), losses=losses))
        averages = move_towards(state.averages, relative, share)
        gram, _ = stacked.scaled_gram(averages, axis_name=axis_name)
        weights = weightings.loss_balanced(gram, losses=jnp.ones_like(gram[0]))
        direction = cast_like(stacked.combine(averages, weights), jax.tree.map(lambda leaf: leaf[0], task_grads))
        return direction, weights, LossBalancedState(averages, optax.safe_increment(state.count))

    return build_rows(RowMethod(init, update), num_tasks, axis_name=axis_name, nonfinite=nonfinite)


def _divide(task_grads, inverse):
    def divide(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        wide = leaf.astype(at_least_single(leaf.dtype))
        return times(inverse.reshape(inverse.shape + (1,) * (leaf.ndim - 1)), wide)

    return jax.tree.map(divide, task_grads)
