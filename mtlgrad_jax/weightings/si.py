"""Scale-invariant weighting: the gradient of the sum of the logarithms."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.typing import Gram, Weights
from mtlgrad_jax.weightings._losses import check_losses, exp_in_range, log_losses


def si(gram: Gram, *, losses: jax.Array | None = None) -> Weights:
    """Weigh tasks so that the update is the gradient of the sum of the logarithms of the losses.

    Multiplying any loss by a constant changes nothing at all, the length of the update included.

    min Σ log Lᵢ,   wᵢ = 1/Lᵢ

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape is used.
      losses: L, shape `(T,)`, positive.

    Returns:
      w, shape `(T,)`, at most √(largest float). The weights sum to Σ 1/Lᵢ, whether tasks agree or not: they
      are not normalised. A loss that is not positive has no logarithm: its task gets weight zero.

    Raises:
      ValueError: If losses are missing or of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> mtl.weightings.si(jnp.eye(2), losses=jnp.array([1.0, 4.0]))
      Array([1.  , 0.25], dtype=float32)

    References:
      Su, scientific-spaces 8870; Navon et al., arXiv 2202.01017, where it is the baseline SI.
    """
    logs, usable = log_losses(check_losses(losses, gram, "si"))
    return jnp.where(usable, exp_in_range(-logs), 0)
