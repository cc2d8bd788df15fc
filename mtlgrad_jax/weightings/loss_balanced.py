"""Dual balancing: gradients of the logarithms of the losses, all as long as the longest."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import reciprocal, row_norms
from mtlgrad_jax.typing import Gram, Weights
from mtlgrad_jax.weightings._losses import check_losses, exp_in_range, log_losses


def loss_balanced(gram: Gram, *, losses: jax.Array | None = None) -> Weights:
    """Weigh tasks so that all pull equally, as hard as the one whose logarithmic loss is steepest.

    The logarithm makes losses comparable, the rescaling makes gradients comparable; multiplying any loss by a
    constant changes nothing.

    u = Σ αᵢ ∇log Lᵢ,   αᵢ = maxⱼ‖∇log Lⱼ‖ / ‖∇log Lᵢ‖,   wᵢ = αᵢ/Lᵢ

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      losses: L, shape `(T,)`, positive.

    Returns:
      w, shape `(T,)`. The weights sum to T/L when tasks agree in gradient and loss. A zero gradient gets weight
      zero; so does a task whose loss is not positive and has no logarithm.

    Raises:
      ValueError: If losses are missing or of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> mtl.weightings.loss_balanced(jnp.diag(jnp.array([1.0, 4.0])), losses=jnp.array([1.0, 0.5]))
      Array([4., 2.], dtype=float32)

    References:
      Lin et al. (DB-MTL), arXiv 2308.12029, without its running mean of the gradients, which
      `mtl.loss_balanced` has.
    """
    logs, usable = log_losses(check_losses(losses, gram, "loss_balanced"))
    lengths = jnp.where(usable, row_norms(gram), 0)
    present = lengths > 0
    log_steepness = jnp.log(jnp.where(present, lengths, 1)) - logs
    steepest = jnp.max(jnp.where(present, log_steepness, -jnp.inf))
    longest = exp_in_range(jnp.where(jnp.isfinite(steepest), steepest, 0))
    return jnp.where(present, longest * reciprocal(lengths), 0)
