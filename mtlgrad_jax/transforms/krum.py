"""Krum as an Optax transformation."""

from functools import partial

import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build


def krum(
    num_tasks: int | None = None,
    *,
    num_byzantine: int = 0,
    num_selected: int = 1,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the gradients that have the closest neighbours.

    w = 1/m on the m rows with the smallest sum of squared distances to their T − f − 2 closest

    Args:
      num_tasks: T; if given, T is checked and the state keeps `gram`, `weights` and `gap`.
      num_byzantine: How many gradients may be anything.
      num_selected: How many are averaged; above one it is multi-Krum.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients, robust against `num_byzantine` arbitrary rows.

    Raises:
      ValueError: See `aggregate` and `weightings.krum`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.krum(num_tasks=2, num_selected=2), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> updates, state = tx.update(task_grads, state, params)
      >>> state[0].weights
      Array([0.5, 0.5], dtype=float32)

    References:
      See `weightings.krum`.
    """
    return build(
        partial(weightings.krum, num_byzantine=num_byzantine, num_selected=num_selected),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
    )
