"""Uncertainty weighting: every task's noise level is learned beside the network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_memory
from mtlgrad_jax.ground.presence import everyone, only
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting

CLAIMS = Claims("learned inverse variances", keeps="PLZF", needs="LS", sums_to="T/2", costs="–")


class UncertaintyState(NamedTuple):
    """What `uncertainty` remembers."""

    log_variances: jax.Array  # (T,)


def weighting(*, learning_rate: float = 0.025) -> StatefulWeighting:
    """Weigh tasks by a learned inverse variance of their noise.

    The weighting does its own gradient descent on the log-variances, one step per call, so they live in the
    Optax state and not among the parameters. Somebody who wants them there, under the same optimiser as the
    network, needs no weighting: add `s` to the parameters and minimise the sum below.

    min_s Σ ½exp(−sᵢ)Lᵢ + ½sᵢ,   wᵢ = ½exp(−sᵢ)

    Args:
      learning_rate: Of the descent on s, which starts at zero.

    Returns:
      A `typing.StatefulWeighting` that needs `losses`. The weights sum to T/2 at first, whether tasks agree or
      not, and move towards 1/(2Lᵢ), where s = log L. Losses of zero or less push s down as a zero loss does,
      a loss that is not finite leaves it; s stays within ± half the range of the exponential.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.uncertainty(learning_rate=1.0)
      >>> losses = jnp.array([1.0, 3.0])
      >>> weights, state = weighting.update(jnp.eye(2), weighting.init(2), losses=losses)
      >>> weights, state.log_variances
      (Array([0.5, 0.5], dtype=float32), Array([0., 1.], dtype=float32))

    References:
      Kendall et al., arXiv 1705.07115 (7), the regression form for every task; s = log σ².
    """

    def init(num_tasks):
        return UncertaintyState(jnp.zeros(num_tasks))

    def update(gram, state, *, losses=None, present=None):
        check_memory(state.log_variances, gram)
        losses = check_losses(losses, gram, "uncertainty")
        log_variances, present = state.log_variances.astype(gram.dtype), everyone(present, losses)
        precision = jnp.exp(-log_variances)
        slope = (1 - precision * jnp.where(losses > 0, losses, 0)) / 2
        change = jnp.asarray(learning_rate, gram.dtype) * jnp.where(jnp.isfinite(slope), slope, 0)
        limit = jnp.log(jnp.finfo(gram.dtype).max) / 2
        moved = jnp.clip(log_variances - change, -limit, limit).astype(state.log_variances.dtype)
        moved = jnp.where(present, moved, state.log_variances)
        return only(precision / 2, present), UncertaintyState(moved)

    return StatefulWeighting(init, update, reads_gram=False)


def uncertainty(
    num_tasks: int | None = None,
    *,
    learning_rate: float = 0.025,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients weighted by a learned inverse variance.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      learning_rate: Of the descent on the log-variances, which live in the state.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.uncertainty(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([0.5, 0.5], dtype=float32)
    """
    return aggregate(weighting(learning_rate=learning_rate), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
