"""Nash-MTL: the bargain in which every task gains in proportion to what it gives."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import dot, reciprocal
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.solvers import alpha_fair
from mtlgrad_jax.typing import Gram, Weights


def nash_mtl(gram: Gram, *, max_norm: jax.Array | float | None = 1.0, log2_scale: jax.Array | int = 0) -> Weights:
    """Weigh tasks by the Nash bargaining solution, in which the product of their gains is largest.

    Rescaling a loss changes nothing, and no task is hurt: every one gains ⟨gᵢ,u⟩ = 1/wᵢ.

    max_u Σ log⟨gᵢ,u⟩  in a ball;   Gw = 1/w,  w > 0

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      max_norm: Longest update; the solution of Gw = 1/w always has length √T, so that for values below it the
        update has exactly this length. None for no limit.
      log2_scale: k, if `gram` is that of 2⁻ᵏJ.

    Returns:
      w, shape `(T,)`, in units of 1/length; when all tasks agree on g they sum to min(√T, max_norm)/‖g‖. A
      zero gradient gets weight zero and the others bargain. At a Pareto stationary point there is no bargain,
      and the disagreement point is no update: w = 0. Published code divides G by its norm first and keeps
      that factor in w, so that only its clipped updates are those of the paper.

    Raises:
      ValueError: If `gram` is not square.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> mtl.weightings.nash_mtl(jnp.diag(jnp.array([4.0, 1.0])), max_norm=None)
      Array([0.5, 1. ], dtype=float32)

    References:
      Navon et al., "Multi-task learning as a bargaining game", arXiv 2202.01017, claim 3.1.
    """
    weights = alpha_fair(gram).x
    if max_norm is not None:
        # The length belongs to 2⁻ᵏJ with its weights 2ᵏw: it needs no rescaling.
        square = dot(weights, dot(gram, weights))
        length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        weights = weights * jnp.minimum(jnp.asarray(max_norm, gram.dtype) * reciprocal(length), 1)
    return scale_by_power_of_two(weights, -jnp.asarray(log2_scale))
