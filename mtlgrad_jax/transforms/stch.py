"""Smooth Tchebycheff as an Optax transformation."""

from functools import partial

import jax
import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build


def stch(
    num_tasks: int | None = None,
    *,
    mu: float = 1.0,
    preference: jax.Array | None = None,
    ideal: jax.Array | float = 0.0,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the gradient of a smooth maximum of the losses.

    min μ log Σ exp(pᵢ(Lᵢ − zᵢ)/μ)

    Args:
      num_tasks: T; if given, T is checked and the state keeps `gram`, `weights` and `gap`.
      mu: μ > 0, in the unit of a loss; small for the worst task only.
      preference: p, shape `(T,)`; 1/T each by default.
      ideal: z, the lowest losses thought possible.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Raises:
      ValueError: See `aggregate` and `weightings.stch`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.stch(num_tasks=2), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> updates, state = tx.update(task_grads, state, params, losses=jnp.array([1.0, 4.0]))
      >>> jnp.round(state[0].weights, 4)
      Array([0.0912, 0.4088], dtype=float32)

    References:
      See `weightings.stch`.
    """
    return build(
        partial(weightings.stch, mu=mu, preference=preference, ideal=ideal),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
    )
