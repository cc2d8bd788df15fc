"""Dynamic weight average as an Optax transformation."""

import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build


def dwa(
    num_tasks: int | None = None,
    *,
    temperature: float = 2.0,
    steps_per_period: int = 1,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients, with more weight where the loss falls more slowly.

    w = T softmax(r/temperature),   rᵢ = L̄ᵢ(t−1)/L̄ᵢ(t−2)

    Args:
      num_tasks: T, needed: the state holds one number per task.
      temperature: Large for nearly equal weights.
      steps_per_period: Steps over which losses are averaged; an epoch in the paper.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Raises:
      ValueError: See `aggregate` and `weightings.dwa`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.dwa(num_tasks=2), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> updates, state = tx.update(task_grads, state, params, losses=jnp.array([1.0, 4.0]))
      >>> state[0].weights
      Array([1., 1.], dtype=float32)

    References:
      See `weightings.dwa`.
    """
    return build(
        weightings.dwa(temperature=temperature, steps_per_period=steps_per_period),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
    )
