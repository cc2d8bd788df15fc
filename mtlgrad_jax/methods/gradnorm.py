"""GradNorm: learn weights at which no gradient is longer than its task's progress deserves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_memory, reciprocal, row_norms
from mtlgrad_jax.ground.presence import everyone, leave_out, number, only
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.methods._learned import Optimizer, learner
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, PyTree, StatefulWeighting

CLAIMS = Claims("learned weights that balance lengths", keeps="PZF", needs="LS", sums_to="T", costs="–")
DEFAULT = optax.adam(0.025)


class GradNormState(NamedTuple):
    """What `gradnorm` remembers."""

    weights: jax.Array  # (T,), for the next step
    initial_losses: jax.Array  # (T,), the first positive and finite one of each task, zero before
    optimizer: PyTree  # of the optimiser, leaves (T, ...)


def weighting(*, alpha: float = 1.5, optimizer: Optimizer | None = None) -> StatefulWeighting:
    """Weigh tasks so that weighted gradients are equally long, longer for tasks that lag behind.

    min_w Σ |wᵢ‖gᵢ‖ − ḡ rᵢ^α|,   ḡ = mean wᵢ‖gᵢ‖,   r = L(t)/L(0) relative to its mean,   Σ wᵢ = T

    One step of the optimiser on w per call, with ḡ rᵢ^α held fixed, and renormalisation.

    Args:
      alpha: α; zero for equal lengths.
      optimizer: Any Optax transformation, which descends w, from one; Adam at .025 by default. It sees one task at a
        time, and the slope ±‖gᵢ‖ in units of ḡ, so that a common scale of the gradients does not matter to `optax.sgd`
        either.

    Returns:
      A `typing.StatefulWeighting` that needs `losses`. The weights sum to T, whether tasks agree or not, and
      are not negative. A zero gradient keeps its weight up to the renormalisation. L(0) is the first loss of a
      task that is positive and finite; before it has one, or where a loss is not finite and non-negative, r = 1.
      An absent task keeps its weight, and what the optimiser knows of it, until it comes back, and the others share
      what is left of T.

    Raises:
      ValueError: If `optimizer` is not a transformation.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.gradnorm(optimizer=optax.sgd(0.1))
      >>> gram, losses = jnp.diag(jnp.array([1.0, 9.0])), jnp.ones(2)
      >>> weights, state = weighting.update(gram, weighting.init(2), losses=losses)
      >>> weights, jnp.round(state.weights, 4)
      (Array([1., 1.], dtype=float32), Array([1.1053, 0.8947], dtype=float32))

    References:
      Chen et al., arXiv 1711.02257, algorithm 1. The lengths there are those at the last shared layer only: hand the
      weighting the Gram matrix of its gradients, or hold J at the shared representation, `method="shared_encoder"` of
      `descent_direction`, for nearly the same at that cost. LibMTL learns w = T softmax(s), takes all shared
      parameters, and as L(0) the mean of the first epoch.
    """
    learns = learner(optimizer, DEFAULT, "gradnorm")

    def init(num_tasks):
        weights = jnp.ones(num_tasks)
        return GradNormState(weights, jnp.zeros(num_tasks), learns.init(weights))

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
        moved, memory = learns.descend(weights.astype(state.weights.dtype), state.optimizer, slope, present)
        moved = _with_sum(jnp.maximum(moved, 0), jnp.sum(held).astype(moved.dtype), present)
        return weights, GradNormState(
            weights=jnp.where(present, moved, state.weights),
            initial_losses=initial.astype(state.initial_losses.dtype),
            optimizer=memory,
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
    optimizer: Optimizer | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients with learned weights that balance their lengths.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      alpha: How much a task that lags behind may pull harder; zero for equal pulls.
      optimizer: Any Optax transformation, which learns the weights; Adam at .025 by default. Its state lives in the
        state of the method.
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
    return aggregate(weighting(alpha=alpha, optimizer=optimizer), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
