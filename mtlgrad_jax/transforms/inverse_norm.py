"""Inverse-norm weighting as an Optax transformation."""

import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build


def inverse_norm(
    num_tasks: int | None = None,
    *,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the sum of the unit vectors along the task gradients.

    Rescaling a loss changes nothing; for two tasks no task is hurt, for more one can be.

    u = Σ gᵢ/‖gᵢ‖

    Args:
      num_tasks: T; if given, T is checked and the state keeps `gram`, `weights` and `gap`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients. Its update has a length between 0 and T whatever
      the gradients' lengths; a zero gradient takes no part. `gap` is the deepest conflict.

    Raises:
      ValueError: See `aggregate`.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> tx = mtl.inverse_norm()
      >>> params = jnp.zeros(2)
      >>> update, _ = tx.update(jnp.array([[300.0, 0.0], [0.0, 0.1]]), tx.init(params), params)
      >>> update
      Array([1., 1.], dtype=float32)

    References:
      See `weightings.inverse_norm`.
    """
    return build(weightings.inverse_norm, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
