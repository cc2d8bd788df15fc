"""PCGrad as an Optax transformation."""

import jax
import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build


def pcgrad(
    num_tasks: int | None = None,
    *,
    key: jax.Array | int = 0,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the sum of the task gradients, each projected off those that it conflicts with.

    gᵢ′ ← gᵢ′ + (−⟨gᵢ′,gⱼ⟩)₊/‖gⱼ‖² · gⱼ for all j ≠ i in random order,   u = Σ gᵢ′

    Args:
      num_tasks: T; if given, T is checked and the state keeps `gram`, `weights` and `gap`.
      key: An int seed or a `jax.random.key`; it lives in the state and every step draws anew.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients; the sum of the gradients where none conflict.

    Raises:
      ValueError: See `aggregate` and `weightings.pcgrad`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.pcgrad(num_tasks=2, key=0), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> updates, state = tx.update(task_grads, state, params)
      >>> state[0].weights
      Array([2.2222223, 1.5789473], dtype=float32)

    References:
      See `weightings.pcgrad`.
    """
    return build(weightings.keyed(weightings.pcgrad, key), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
