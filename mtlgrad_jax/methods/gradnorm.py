"""GradNorm: learn weights at which no gradient is longer than its task's progress deserves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_memory, reciprocal, row_norms
from mtlgrad_jax.ground.presence import everyone, leave_out, number, only
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting

CLAIMS = Claims("learned weights that balance lengths", keeps="PZF", needs="LS", sums_to="T", costs="–")


class GradNormState(NamedTuple):
    """What `gradnorm` remembers."""

    weights: jax.Array  # (T,), for the next step
    initial_losses: jax.Array  # (T,), the first positive and finite one of each task, zero before


def weighting(*, alpha: float = 1.5, learning_rate: float = 0.025) -> StatefulWeighting:
    """Weigh tasks so that weighted gradients are equally long, longer for tasks that lag behind.

    min_w Σ |wᵢ‖gᵢ‖ − ḡ rᵢ^α|,   ḡ = mean wᵢ‖gᵢ‖,   r = L(t)/L(0) relative to its mean,   Σ wᵢ = T

    One step of descent on w per call, with ḡ rᵢ^α held fixed, and renormalisation.

    Args:
      alpha: α; zero for equal lengths.
      learning_rate: Of the descent on w, which starts at one. The slope ±‖gᵢ‖ is taken in units of ḡ, so that a
        common scale of the gradients does not matter; the paper feeds it to Adam, which has that effect.

    Returns:
      A `typing.StatefulWeighting` that needs `losses`. The weights sum to T, whether tasks agree or not, and
      are not negative. A zero gradient keeps its weight up to the renormalisation. L(0) is the first loss of a
      task that is positive and finite; before it has one, or where a loss is not finite and non-negative, r = 1.
      An absent task keeps its weight until it comes back, and the others share what is left of T.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.gradnorm(learning_rate=0.1)
      >>> gram, losses = jnp.diag(jnp.array([1.0, 9.0])), jnp.ones(2)
      >>> weights, state = weighting.update(gram, weighting.init(2), losses=losses)
      >>> weights, jnp.round(state.weights, 4)
      (Array([1., 1.], dtype=float32), Array([1.1053, 0.8947], dtype=float32))

    References:
      Chen et al., arXiv 1711.02257, algorithm 1.
    """

    def init(num_tasks):
        return GradNormState(jnp.ones(num_tasks), jnp.zeros(num_tasks))

    def update(gram, state, *, losses=None, present=None):
        check_memory(state.weights, gram)
        losses = only(check_losses(losses, gram, "gradnorm"), present)
        lengths, present = row_norms(leave_out(gram, present)), everyone(present, losses)
        initial = state.initial_losses.astype(gram.dtype)
        initial = jnp.where((initial > 0) | ~(losses > 0) | ~jnp.isfinite(losses), initial, losses)
        count, held = number(present, gram.dtype), only(state.weights.astype(gram.dtype), present)
        weights = _with_sum(held, count, present)

        weighted = weights * lengths
        unit = reciprocal(jnp.sum(weighted) / count)
        excess = weighted * unit - _lag(losses, initial, present) ** jnp.asarray(alpha, gram.dtype)
        slope = jnp.sign(excess) * lengths * unit
        moved = jnp.maximum(weights - jnp.asarray(learning_rate, gram.dtype) * slope, 0)
        moved = _with_sum(moved, jnp.sum(held), present)
        return weights, GradNormState(
            weights=jnp.where(present, moved.astype(state.weights.dtype), state.weights),
            initial_losses=initial.astype(state.initial_losses.dtype),
        )

    return StatefulWeighting(init, update)


def _with_sum(weights, total, present):
    """Scale the weights of the tasks present to a given sum, or make them equal."""
    own = jnp.sum(weights)
    equal = present.astype(weights.dtype) / number(present, weights.dtype)
    return total * jnp.where(own > 0, weights / jnp.where(own > 0, own, 1), equal)


def _lag(losses, initial, present):
    """Return L(t)/L(0) relative to its mean over tasks, one where it has no meaning."""
    usable = present & (initial > 0) & (losses >= 0) & jnp.isfinite(losses)
    ratio = jnp.where(usable, losses / jnp.where(usable, initial, 1), 0)
    ratio = jnp.minimum(ratio, jnp.finfo(ratio.dtype).max ** 0.25)
    count = jnp.maximum(jnp.sum(usable.astype(ratio.dtype)), 1)
    mean = jnp.sum(ratio) / count
    return jnp.where(usable & (mean > 0), ratio / jnp.where(mean > 0, mean, 1), 1)


def gradnorm(
    num_tasks: int | None = None,
    *,
    alpha: float = 1.5,
    learning_rate: float = 0.025,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients with learned weights that balance their lengths.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      alpha: How much a task that lags behind may pull harder; zero for equal pulls.
      learning_rate: Of the descent on the weights, which live in the state.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.gradnorm(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([1., 1.], dtype=float32)
    """
    return aggregate(
        weighting(alpha=alpha, learning_rate=learning_rate),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
    )
