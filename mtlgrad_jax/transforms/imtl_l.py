"""IMTL-L as an Optax transformation."""

import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build


def imtl_l(
    num_tasks: int | None = None,
    *,
    learning_rate: float = 0.025,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients weighted by learned scales that bring every loss to one.

    u = Σ exp(sᵢ) gᵢ,   min_s Σ exp(sᵢ)Lᵢ − sᵢ

    Args:
      num_tasks: T, needed: the state holds one number per task.
      learning_rate: Of the descent on the scales, which live in the state.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Raises:
      ValueError: See `aggregate` and `weightings.imtl_l`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.imtl_l(num_tasks=2), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> updates, state = tx.update(task_grads, state, params, losses=jnp.array([1.0, 4.0]))
      >>> state[0].weights
      Array([1., 1.], dtype=float32)

    References:
      See `weightings.imtl_l`.
    """
    return build(weightings.imtl_l(learning_rate=learning_rate), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
