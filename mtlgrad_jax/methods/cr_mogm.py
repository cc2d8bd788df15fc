"""CR-MOGM, weights averaged over steps, as an Optax transformation."""

import optax

from mtlgrad_jax.combinators.smoothed import smoothed
from mtlgrad_jax.methods import mgda
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting, Weighting

CLAIMS = Claims("any weights, averaged over steps", keeps="F", needs="S", sums_to="1", costs="program")


def cr_mogm(
    num_tasks: int | None = None,
    *,
    weighting: Weighting | StatefulWeighting = mgda.weights,
    alpha: float = 0.9,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients with the weights of any method, averaged over the steps.

    λ̂(t) = α λ̂(t−1) + (1−α) λ(t),   u = Jᵀλ̂

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      weighting: The method whose weights are averaged; with `optax.inject_hyperparams`, one of `static_args`.
      alpha: α, from 0 for no average to 1.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Raises:
      ValueError: See `aggregate` and `weightings.smoothed`.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.cr_mogm(num_tasks=2), optax.sgd(0.1))
      >>> params = jnp.zeros(2)
      >>> state = tx.init(params)
      >>> for task_grads in (jnp.eye(2), jnp.diag(jnp.array([1.0, 2.0]))):
      ...     updates, state = tx.update(task_grads, state, params)
      >>> jnp.round(state[0].weights, 4)
      Array([0.53, 0.47], dtype=float32)
    """
    return aggregate(smoothed(weighting, alpha=alpha), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
