"""Dynamic weight average: more weight to the losses that fall more slowly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_memory
from mtlgrad_jax.ground.logarithms import softmax_where
from mtlgrad_jax.ground.presence import everyone, number, only
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting

CLAIMS = Claims("weight where the loss falls slowly", keeps="PLZF", needs="LS", sums_to="T", costs="–")


class DwaState(NamedTuple):
    """What `dwa` remembers: the mean losses of the last two periods and the sum over the current one."""

    last: jax.Array  # (T,)
    before_last: jax.Array  # (T,)
    total: jax.Array  # (T,)
    counts: jax.Array  # (T,) int32, losses in the total
    num_steps: jax.Array  # () int32, in the current period
    num_periods: jax.Array  # (T,) int32, periods in which a task had a loss, at most two


def weighting(*, temperature: float = 2.0, steps_per_period: int = 1) -> StatefulWeighting:
    """Weigh tasks by how slowly their losses have been falling.

    w = T softmax(r/temperature),   rᵢ = L̄ᵢ(t−1)/L̄ᵢ(t−2)

    Args:
      temperature: Large for nearly equal weights.
      steps_per_period: Number of steps over which L̄ averages; the paper's period is one epoch.

    Returns:
      A `typing.StatefulWeighting` that needs `losses`. The weights sum to T, whether tasks agree or not, and
      are one during the first two periods. Where a mean loss is not positive, r = 1. A loss that is not finite
      is left out of its mean, and a period without any loss of a task does not count for it.

    Raises:
      ValueError: If `steps_per_period` is not positive.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.dwa()
      >>> state = weighting.init(2)
      >>> for losses in ([4.0, 4.0], [4.0, 2.0], [4.0, 1.0]):
      ...     weights, state = weighting.update(jnp.eye(2), state, losses=jnp.array(losses))
      >>> jnp.round(weights, 4)
      Array([1.1244, 0.8756], dtype=float32)

    References:
      Liu et al., arXiv 1803.10704, (7).
    """
    if steps_per_period < 1:
        raise ValueError(f"expected steps_per_period of at least one step, got {steps_per_period}.")

    def init(num_tasks):
        return DwaState(
            last=jnp.zeros(num_tasks),
            before_last=jnp.zeros(num_tasks),
            total=jnp.zeros(num_tasks),
            counts=jnp.zeros(num_tasks, jnp.int32),
            num_steps=jnp.zeros((), jnp.int32),
            num_periods=jnp.zeros(num_tasks, jnp.int32),
        )

    def update(gram, state, *, losses=None, present=None):
        check_memory(state.total, gram)
        losses = check_losses(losses, gram, "dwa").astype(state.total.dtype)
        present = everyone(present, losses)
        comparable = (state.num_periods >= 2) & _positive(state.last) & _positive(state.before_last)
        ratio = jnp.where(comparable, state.last / jnp.where(comparable, state.before_last, 1), 1)
        limit = jnp.finfo(ratio.dtype).max / 4  # differences of two stay finite
        logits = jnp.minimum(ratio / jnp.asarray(temperature, ratio.dtype), limit)
        weights = number(present, gram.dtype) * softmax_where(logits, present).astype(gram.dtype)

        measured = present & jnp.isfinite(losses)
        total, counts = state.total + only(losses, measured), state.counts + measured.astype(jnp.int32)
        num_steps = state.num_steps + 1
        full = num_steps >= steps_per_period
        ended = full & (counts > 0)
        return weights, DwaState(
            last=jnp.where(ended, total / jnp.maximum(counts, 1).astype(total.dtype), state.last),
            before_last=jnp.where(ended, state.last, state.before_last),
            total=jnp.where(full, 0, total),
            counts=jnp.where(full, 0, counts),
            num_steps=jnp.where(full, 0, num_steps),
            num_periods=jnp.minimum(state.num_periods + ended.astype(jnp.int32), 2),
        )

    return StatefulWeighting(init, update, reads_gram=False)


def _positive(losses):
    return (losses > 0) & jnp.isfinite(losses)


def dwa(
    num_tasks: int | None = None,
    *,
    temperature: float = 2.0,
    steps_per_period: int = 1,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients, with more weight where the loss falls more slowly.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      temperature: Large for nearly equal weights.
      steps_per_period: Steps over which losses are averaged; an epoch in the paper.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.dwa(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([1., 1.], dtype=float32)
    """
    return aggregate(
        weighting(temperature=temperature, steps_per_period=steps_per_period),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
    )
