"""MGDA as an Optax transformation."""

from functools import partial

import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.solvers import min_norm
from mtlgrad_jax.solvers.certificates import conflict_gap, min_norm_gap
from mtlgrad_jax.transforms._aggregate import build
from mtlgrad_jax.typing import Solver


def mgda(
    num_tasks: int | None = None,
    *,
    normalization: str = "none",
    solver: Solver | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the shortest convex combination of the task gradients, which hurts no task to first order.

    α* = argmin_{α∈Δ} ‖Σ αᵢgᵢ‖²,   u = Σ αᵢ*gᵢ

    Args:
      num_tasks: T; if given, T is checked and the state keeps `gram`, `weights` and `gap`.
      normalization: `"none"`, `"l2"`, `"loss"` or `"loss+"`, see `weightings.mgda`; the last two need
        `tx.update(..., losses=losses)`.
      solver: The solver of the inner program; exact by default. (None rather than a function, because
        `optax.inject_hyperparams` takes functions for schedules; list it in static_args there.)
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients. At a Pareto stationary point, and when a task's
      gradient is zero, its update is zero. `gap` is the Frank–Wolfe gap (with a normalisation, the deepest
      conflict).

    Raises:
      ValueError: See `aggregate` and `weightings.mgda`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.mgda(num_tasks=2), optax.sgd(0.1))
      >>> params = jnp.zeros(3)
      >>> state = tx.init(params)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> updates, state = tx.update(task_grads, state, params)
      >>> state[0].weights
      Array([0.6, 0.4], dtype=float32)

    References:
      See `weightings.mgda`.
    """
    return build(
        partial(weightings.mgda, normalization=normalization, solver=solver or min_norm),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
        certificate=min_norm_gap if normalization == "none" else conflict_gap,
    )
