"""Inverse-norm weighting: every task pulls with the same force."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import reciprocal, row_norms
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.typing import Gram, Weights


def inverse_norm(gram: Gram, *, log2_scale: jax.Array | int = 0) -> Weights:
    """Weigh tasks by the inverse length of their gradients.

    Rescaling a loss changes nothing. For two tasks the sum of the unit vectors bisects their angle and
    conflicts with neither; for three it can: g₁ = g₂ = (1,0), g₃ = (−1,½) give ⟨g₃,u⟩ < 0.

    u = Σ gᵢ/‖gᵢ‖

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      log2_scale: k, if `gram` is that of 2⁻ᵏJ.

    Returns:
      w = 1/‖gᵢ‖, shape `(T,)`, in units of 1/length; a zero gradient gets 0. If all tasks agree on a
      gradient g the weights sum to T/‖g‖, and the update has length T.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> mtl.weightings.inverse_norm(jnp.diag(jnp.array([4.0, 100.0, 0.0])))
      Array([0.5, 0.1, 0. ], dtype=float32)

    References:
      Su, scientific-spaces 8870, conclusion, and 8896.
    """
    return scale_by_power_of_two(reciprocal(row_norms(gram)), -jnp.asarray(log2_scale))
