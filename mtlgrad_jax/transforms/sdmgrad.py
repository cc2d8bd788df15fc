"""SDMGrad as an Optax transformation."""

import jax
import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._double_sampling import build_double_sampling


def sdmgrad(
    num_tasks: int | None = None,
    *,
    pull: float = 0.3,
    num_steps: int = 20,
    learning_rate: float = 10.0,
    momentum: float = 0.5,
    preference: jax.Array | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow a direction between MGDA's and a preferred one, without the bias of a single batch.

    min_{w∈Δ} ½‖Jᵀ(w + λp)‖²,   u = Jᵀ(w + λp)/(1 + λ)

    Args:
      num_tasks: T, needed: the state holds one number per task.
      pull: λ, towards the preferred direction.
      num_steps: Projected gradient steps per call.
      learning_rate: Of these steps, in units of one over the mean squared length.
      momentum: Of these steps.
      preference: p, shape `(T,)`; 1/T each by default.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients J₁ that needs `tx.update(..., second_task_grads=J₂)`, at
      the same parameters on an independent batch. The paper makes the update of a third,
      `third_task_grads=J₃`; without it the update is made of the mean of the two.

    Raises:
      ValueError: See `aggregate` and `weightings.sdmgrad`; in `update`, without `second_task_grads`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.sdmgrad(num_tasks=2, learning_rate=0.5), optax.sgd(0.1))
      >>> params = jnp.zeros(2)
      >>> state = tx.init(params)
      >>> task_grads = jnp.eye(2)
      >>> updates, state = tx.update(task_grads, state, params, second_task_grads=task_grads)
      >>> state[0].weights
      Array([0.5, 0.5], dtype=float32)

    References:
      See `weightings.sdmgrad`.
    """
    weighting = weightings.sdmgrad(
        pull=pull, num_steps=num_steps, learning_rate=learning_rate, momentum=momentum, preference=preference
    )
    return build_double_sampling(weighting, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
