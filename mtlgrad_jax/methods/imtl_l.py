"""IMTL-L: learn a scale for every loss that brings all of them to one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_memory
from mtlgrad_jax.ground.presence import everyone, only
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting

CLAIMS = Claims("learned scales that make losses one", keeps="PLZF", needs="LS", sums_to="T", costs="–")


class ImtlLState(NamedTuple):
    """What `imtl_l` remembers."""

    log_scales: jax.Array  # (T,)


def weighting(*, learning_rate: float = 0.025) -> StatefulWeighting:
    """Weigh tasks by a learned scale at which every loss is one.

    The weighting does its own gradient descent on the scales, one step per call. No task is favoured in the
    end: the minimum in s is exp(sᵢ) = 1/Lᵢ, where this is `si`.

    min_s Σ exp(sᵢ)Lᵢ − sᵢ,   wᵢ = exp(sᵢ)

    Args:
      learning_rate: Of the descent on s, which starts at zero.

    Returns:
      A `typing.StatefulWeighting` that needs `losses`. The weights sum to T at first, whether tasks agree or
      not, and move towards 1/Lᵢ. Losses of zero or less push s up as a zero loss does, a loss that is not
      finite leaves it; s stays within ± half the range of the exponential.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.imtl_l(learning_rate=1.0)
      >>> losses = jnp.array([1.0, 3.0])
      >>> weights, state = weighting.update(jnp.eye(2), weighting.init(2), losses=losses)
      >>> weights, state.log_scales
      (Array([1., 1.], dtype=float32), Array([ 0., -2.], dtype=float32))

    References:
      Liu et al., "Towards Impartial Multi-task Learning" (ICLR 2021), section 3.2.
    """

    def init(num_tasks):
        return ImtlLState(jnp.zeros(num_tasks))

    def update(gram, state, *, losses=None, present=None):
        check_memory(state.log_scales, gram)
        losses = check_losses(losses, gram, "imtl_l")
        log_scales, present = state.log_scales.astype(gram.dtype), everyone(present, losses)
        scales = jnp.exp(log_scales)
        slope = scales * jnp.where(losses > 0, losses, 0) - 1
        change = jnp.asarray(learning_rate, gram.dtype) * jnp.where(jnp.isfinite(losses), slope, 0)
        limit = jnp.log(jnp.finfo(gram.dtype).max) / 2
        moved = jnp.clip(log_scales - change, -limit, limit).astype(state.log_scales.dtype)
        moved = jnp.where(present, moved, state.log_scales)
        return only(scales, present), ImtlLState(moved)

    return StatefulWeighting(init, update, reads_gram=False)


def imtl_l(
    num_tasks: int | None = None,
    *,
    learning_rate: float = 0.025,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients weighted by learned scales that bring every loss to one.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      learning_rate: Of the descent on the scales, which live in the state.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.imtl_l(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([1., 1.], dtype=float32)
    """
    return aggregate(weighting(learning_rate=learning_rate), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
