"""GradNorm as an Optax transformation."""

import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build


def gradnorm(
    num_tasks: int | None = None,
    *,
    alpha: float = 1.5,
    learning_rate: float = 0.025,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients with learned weights that balance their lengths.

    min_w Σ |wᵢ‖gᵢ‖ − ḡ rᵢ^α|,   Σ wᵢ = T

    Args:
      num_tasks: T, needed: the state holds one number per task.
      alpha: How much a task that lags behind may pull harder; zero for equal pulls.
      learning_rate: Of the descent on the weights, which live in the state.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Raises:
      ValueError: See `aggregate` and `weightings.gradnorm`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.gradnorm(num_tasks=2), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> updates, state = tx.update(task_grads, state, params, losses=jnp.array([1.0, 4.0]))
      >>> state[0].weights
      Array([1., 1.], dtype=float32)

    References:
      See `weightings.gradnorm`.
    """
    return build(
        weightings.gradnorm(alpha=alpha, learning_rate=learning_rate),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
    )
