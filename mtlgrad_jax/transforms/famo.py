"""FAMO as an Optax transformation."""

import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build


def famo(
    num_tasks: int | None = None,
    *,
    learning_rate: float = 0.025,
    decay: float = 1e-3,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients so that all losses fall at the same relative rate.

    wᵢ ∝ zᵢ/Lᵢ,   z = softmax(ξ),   ξ moved by how much each log Lᵢ fell in the last step

    Args:
      num_tasks: T, needed: the state holds one number per task.
      learning_rate: Of the descent on the logits, which live in the state.
      decay: Draws the logits back to zero.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)` and takes
      `previous_batch_losses`, the losses of the current parameters on the batch of the previous step.

    Raises:
      ValueError: See `aggregate` and `weightings.famo`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.famo(num_tasks=2), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> updates, state = tx.update(task_grads, state, params, losses=jnp.array([1.0, 4.0]))
      >>> state[0].weights
      Array([0.8, 0.2], dtype=float32)

    References:
      See `weightings.famo`.
    """
    return build(
        weightings.famo(learning_rate=learning_rate, decay=decay), num_tasks, axis_name=axis_name, nonfinite=nonfinite
    )
