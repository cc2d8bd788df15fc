"""The gradient of the geometric mean of the losses."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.typing import Gram, Weights
from mtlgrad_jax.weightings._losses import check_losses, exp_in_range, log_losses


def geometric(gram: Gram, *, losses: jax.Array | None = None) -> Weights:
    """Weigh tasks so that the update is the gradient of the geometric mean of the losses.

    A task's pull is relative to its loss, and multiplying any loss by a constant changes the length of the
    update only.

    L = (∏ Lᵢ)^{1/T},   wᵢ = L / (T Lᵢ)

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape is used.
      losses: L, shape `(T,)`, positive.

    Returns:
      w, shape `(T,)`, at most √(largest float). The weights sum to one when all losses are equal, to more
      otherwise. A loss that is not positive has no logarithm: its task gets weight zero, and the mean is that
      of the others.

    Raises:
      ValueError: If losses are missing or of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> mtl.weightings.geometric(jnp.eye(2), losses=jnp.array([1.0, 4.0]))
      Array([1.  , 0.25], dtype=float32)

    References:
      Chennupati et al. (MultiNet++), CVPR workshops 2019.
    """
    logs, usable = log_losses(check_losses(losses, gram, "geometric"))
    count = jnp.maximum(jnp.sum(usable.astype(gram.dtype)), 1)
    mean = jnp.sum(logs) / count
    return jnp.where(usable, exp_in_range(mean - logs) / count, 0)
