"""Random loss weighting as an Optax transformation."""

import jax
import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build


def random_weights(
    num_tasks: int | None = None,
    *,
    key: jax.Array | int = 0,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow a random convex combination of the task gradients, drawn anew at every step.

    w = softmax(z),   z ~ N(0, I)

    Args:
      num_tasks: T; if given, T is checked and the state keeps `gram`, `weights` and `gap`.
      key: An int seed or a `jax.random.key`; it lives in the state and every step draws anew.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients, whose update is their mean on average.

    Raises:
      ValueError: See `aggregate` and `weightings.random_weights`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.random_weights(num_tasks=2, key=0), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> updates, state = tx.update(task_grads, state, params)
      >>> float(jnp.sum(state[0].weights))
      1.0

    References:
      See `weightings.random_weights`.
    """
    return build(weightings.keyed(weightings.random_weights, key), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
