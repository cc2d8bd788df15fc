"""Dual balancing: gradients of the logarithms of the losses, all as long as the longest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from mtlgrad_jax.ground.grams import reciprocal, row_norms
from mtlgrad_jax.ground.leaves import at_least_single, cast_like, times
from mtlgrad_jax.ground.logarithms import exp_in_range, log_losses
from mtlgrad_jax.ground.presence import everyone, leave_out, only
from mtlgrad_jax.ground.rows import move_towards, zeros_like_rows
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.methods import si
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, PyTree, RowMethod, Weights

CLAIMS = Claims("gradients of log L of one length", keeps="PZSF", needs="RLS", sums_to="T/L", costs="T gradients")


def weights(gram: Gram, *, losses: ArrayLike | None = None, present: jax.Array | None = None) -> Weights:
    """Weigh tasks so that all pull equally, as hard as the one whose logarithmic loss is steepest.

    The logarithm makes losses comparable, the rescaling makes gradients comparable; multiplying any loss by a
    constant changes nothing.

    u = Σ αᵢ ∇log Lᵢ,   αᵢ = maxⱼ‖∇log Lⱼ‖ / ‖∇log Lᵢ‖,   wᵢ = αᵢ/Lᵢ

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      losses: L, shape `(T,)`, positive.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`. The weights sum to T/L when tasks agree in gradient and loss. A zero gradient gets weight
      zero; so does a task whose loss is not positive and has no logarithm.

    Raises:
      ValueError: If losses are missing or of the wrong shape.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.loss_balanced(jnp.diag(jnp.array([1.0, 4.0])), losses=jnp.array([1.0, 0.5]))
      Array([4., 2.], dtype=float32)

    References:
      Lin et al. (DB-MTL), arXiv 2308.12029, without its running mean of the gradients, which
      `mtl.loss_balanced` has.
    """
    logs, usable = log_losses(check_losses(losses, gram, "loss_balanced"))
    lengths = jnp.where(usable, row_norms(leave_out(gram, present)), 0)
    pulls = lengths > 0
    log_steepness = jnp.log(jnp.where(pulls, lengths, 1)) - logs
    steepest = jnp.max(jnp.where(pulls, log_steepness, -jnp.inf))
    longest = exp_in_range(jnp.where(jnp.isfinite(steepest), steepest, 0))
    return jnp.where(pulls, longest * reciprocal(lengths), 0)


class LossBalancedState(NamedTuple):
    """What `loss_balanced` remembers; as much memory as T gradients."""

    averages: PyTree  # leaves (T, *param_shape), of the gradients of the logarithms
    counts: jax.Array  # (T,) int32, gradients in the average of each task


def rows(*, beta: optax.ScalarOrSchedule = 0.9) -> RowMethod:
    """Return the method itself, for `descent_direction`; options as in `loss_balanced`."""

    def init(num_tasks, params):
        return LossBalancedState(zeros_like_rows(params, num_tasks), jnp.zeros(num_tasks, jnp.int32))

    def update(task_grads, state, *, losses=None, axis_name=None, present=None):
        shares = 1 - (jax.vmap(beta)(state.counts) if callable(beta) else beta)
        shares = only(jnp.where(state.counts > 0, shares, 1.0), present)
        relative = _divide(task_grads, si.weights(jnp.eye(stacked.count_tasks(task_grads)), losses=losses))
        averages = move_towards(state.averages, relative, shares)
        gram, _ = stacked.scaled_gram(averages, axis_name=axis_name)
        alpha = weights(gram, losses=jnp.ones_like(gram[0]), present=present)
        direction = cast_like(stacked.combine(averages, alpha), jax.tree.map(lambda leaf: leaf[0], task_grads))
        counts = jnp.where(everyone(present, alpha), optax.safe_increment(state.counts), state.counts)
        return direction, alpha, LossBalancedState(averages, counts)

    return RowMethod(init, update)


def loss_balanced(
    num_tasks: int | None = None,
    *,
    beta: optax.ScalarOrSchedule = 0.9,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the averaged gradients of the logarithms of the losses, all made as long as the longest.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      beta: β, a number or an Optax schedule of the number of gradients that the average of a task holds; the
        published code has .9 and divides it by a power of the step, which is zero unless one asks for another.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`. The
      average starts at the first gradient (in the published code at zero, which shortens the first updates).
      `weights` in the state are α, on ĝ: they sum to T when all tasks agree. A loss that is not positive counts
      as a zero gradient.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.loss_balanced(num_tasks=2)
      >>> state = tx.init(jnp.zeros(2))
      >>> tx.update(jnp.diag(jnp.array([1.0, 2.0])), state, losses=jnp.array([1.0, 0.5]))[0]
      Array([4., 4.], dtype=float32)

    References:
      Lin et al. (DB-MTL), arXiv 2308.12029.
    """
    return aggregate(rows(beta=beta), num_tasks, axis_name=axis_name, nonfinite=nonfinite)


def _divide(task_grads, inverse):
    def divide(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        wide = leaf.astype(at_least_single(leaf.dtype))
        return times(inverse.reshape(inverse.shape + (1,) * (leaf.ndim - 1)), wide)

    return jax.tree.map(divide, task_grads)
