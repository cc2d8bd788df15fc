"""MoDo as an Optax transformation."""

import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._double_sampling import build_double_sampling


def modo(
    num_tasks: int | None = None,
    *,
    gamma: float = 0.1,
    rho: float = 0.1,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow a convex combination of the task gradients that approaches MGDA's without the bias of one batch.

    λ ← Π_Δ(λ − γ(J₁J₂ᵀ + ρI)λ),   u = ½(J₁ + J₂)ᵀλ

    Args:
      num_tasks: T, needed: the state holds one number per task.
      gamma: γ, in units of one over a squared gradient length.
      rho: ρ.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients J₁ that needs `tx.update(..., second_task_grads=J₂)`, at
      the same parameters on an independent batch; passing J₁ twice gives back the bias. With
      `third_task_grads` the update is made of those, as some implementations do. `gram` in the state is that
      of the rows of the update.

    Raises:
      ValueError: See `aggregate`; in `update`, without `second_task_grads`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.modo(num_tasks=2), optax.sgd(0.1))
      >>> params = jnp.zeros(2)
      >>> state = tx.init(params)
      >>> first, second = jnp.diag(jnp.array([1.0, 2.0])), jnp.diag(jnp.array([1.0, 1.0]))
      >>> updates, state = tx.update(first, state, params, second_task_grads=second)
      >>> state[0].weights
      Array([0.525, 0.475], dtype=float32)

    References:
      See `weightings.modo`.
    """
    return build_double_sampling(
        weightings.modo(gamma=gamma, rho=rho), num_tasks, axis_name=axis_name, nonfinite=nonfinite
    )
