"""Geometric loss as an Optax transformation."""

import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build


def geometric(
    num_tasks: int | None = None,
    *,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the gradient of the geometric mean of the losses.

    L = (∏ Lᵢ)^{1/T},   u = Σ L/(T Lᵢ) · gᵢ

    Args:
      num_tasks: T; if given, T is checked and the state keeps `gram`, `weights` and `gap`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Raises:
      ValueError: See `aggregate` and `weightings.geometric`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.geometric(num_tasks=2), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> updates, state = tx.update(task_grads, state, params, losses=jnp.array([1.0, 4.0]))
      >>> state[0].weights
      Array([1.  , 0.25], dtype=float32)

    References:
      See `weightings.geometric`.
    """
    return build(weightings.geometric, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
