"""Self-adaptive weights: they ascend the loss that the network descends."""

import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.presence import number, only
from mtlgrad_jax.methods._learned import Optimizer, from_losses, learner
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting

CLAIMS = Claims("minimax over weights", keeps="PLZF", needs="LS", sums_to="T", costs="–")
DEFAULT = optax.adam(0.005)


def weighting(*, optimizer: Optimizer | None = None) -> StatefulWeighting:
    """Weigh tasks by numbers that are trained to make the weighted loss large.

    A loss that stays large gets more weight in every step, until it falls. Behind Adam the network sees the proportions
    of the weights only, which are those of the paper.

    min_θ max_λ Σ λᵢ²Lᵢ(θ),   wᵢ = T λᵢ²/Σλⱼ²

    Args:
      optimizer: Any Optax transformation, which ascends λ, one step per call, from one; Adam at .005 by default. It
        sees one task at a time. Adam's steps are alike for losses of any size; with `optax.sgd` weights grow faster the
        larger the loss.

    Returns:
      A `typing.StatefulWeighting` that needs `losses`; `values` in its state are λ. The weights sum to T, whether tasks
      agree or not, so that they change no learning rate; the paper's grow for ever. A loss of zero or less counts as
      zero; where a loss is not finite, or its task absent, λ and what the optimiser knows of it rest.

    Raises:
      ValueError: If `optimizer` is not a transformation.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.self_adaptive(optimizer=optax.sgd(0.5))
      >>> state, losses = weighting.init(2), jnp.array([0.0, 1.0])
      >>> for _ in range(2):
      ...     weights, state = weighting.update(jnp.eye(2), state, losses=losses)
      >>> weights
      Array([0.4, 1.6], dtype=float32)

    References:
      McClenny & Braga-Neto, arXiv 2009.04544, with the mask λ² and one weight per loss. One per point, on points that
      stay, is the same weighting of losses of points, with `method="per_example"` of `descent_direction`.
    """

    def weigh(values, present):
        squares = only(values * values, present)
        total = jnp.sum(squares)
        return number(present, values.dtype) * squares / jnp.where(total > 0, total, 1)

    return from_losses(
        "self_adaptive",
        weigh=weigh,
        slope=lambda values, losses: -2 * values * losses,
        limit=lambda dtype: float(jnp.finfo(dtype).max) ** 0.25,
        learner=learner(optimizer, DEFAULT, "self_adaptive"),
        start=1.0,
    )


def self_adaptive(
    num_tasks: int | None = None,
    *,
    optimizer: Optimizer | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients with weights that ascend the loss which they multiply.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      optimizer: Any Optax transformation, which learns the weights; Adam at .005 by default. Its state lives in the
        state of the method.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.self_adaptive(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([1., 1.], dtype=float32)
    """
    return aggregate(weighting(optimizer=optimizer), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
