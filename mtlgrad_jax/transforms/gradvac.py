"""Gradient vaccine as an Optax transformation."""

import jax
import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build


def gradvac(
    num_tasks: int | None = None,
    *,
    beta: float = 0.5,
    key: jax.Array | int = 0,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the sum of the task gradients, each bent until it agrees with the others as much as on average.

    cos(gᵢ′,gⱼ) ≥ φ̂ᵢⱼ for all j ≠ i in random order,   φ̂ ← (1−β)φ̂ + β cos,   u = Σ gᵢ′

    Args:
      num_tasks: T, needed: the state holds one number per task.
      beta: Share of the new cosine in the running mean.
      key: An int seed or a `jax.random.key`; it lives in the state and every step draws anew.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients; its first step is that of `pcgrad`.

    Raises:
      ValueError: See `aggregate` and `weightings.gradvac`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.gradvac(num_tasks=2), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> updates, state = tx.update(task_grads, state, params)
      >>> state[0].weights
      Array([2.2222223, 1.5789473], dtype=float32)

    References:
      See `weightings.gradvac`.
    """
    return build(weightings.gradvac(beta=beta, key=key), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
