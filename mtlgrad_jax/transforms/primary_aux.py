"""Primary and auxiliary tasks as an Optax transformation."""

from functools import partial

import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.solvers import min_norm
from mtlgrad_jax.solvers.certificates import min_norm_gap
from mtlgrad_jax.transforms._aggregate import build
from mtlgrad_jax.typing import Solver


def primary_aux(
    num_tasks: int | None = None,
    *,
    num_primary: int = 1,
    solver: Solver | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the primary tasks and never hurt the auxiliary ones, to first order.

    min ½‖Σ αᵢgᵢ + Σ λⱼhⱼ‖²,  α ∈ Δ on the first `num_primary` rows, λ ≥ 0 on the rest

    Args:
      num_tasks: T, primaries and auxiliaries; if given, T is checked and the state keeps `gram`, `weights`
        and `gap`.
      num_primary: p, how many of the first rows are primaries; 1 to T.
      solver: The solver of the inner program; exact by default. (None rather than a function, because
        `optax.inject_hyperparams` takes functions for schedules; list it in static_args there.)
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`. Under `"drop_task"` a step without any primary is a zero update.

    Returns:
      An Optax transformation of stacked task gradients, primaries first. Its update is the primaries'
      MGDA direction if no auxiliary conflicts with it.

    Raises:
      ValueError: See `aggregate`; if `num_primary` is not between 1 and T.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = mtl.primary_aux()
      >>> params = jnp.zeros(2)
      >>> update, _ = tx.update(jnp.array([[2.0, 0.0], [-1.0, 1.0]]), tx.init(params), params)
      >>> update
      Array([1., 1.], dtype=float32)

    References:
      See `weightings.primary_aux`.
    """
    return build(
        partial(weightings.primary_aux, num_primary=num_primary, solver=solver or min_norm),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
        certificate=partial(min_norm_gap, num_simplex=num_primary),
        num_primary=num_primary,
    )
