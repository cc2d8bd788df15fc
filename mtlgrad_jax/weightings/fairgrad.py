"""FairGrad: α-fair shares of progress."""

import jax

from mtlgrad_jax.solvers import alpha_fair
from mtlgrad_jax.typing import Gram, Weights


def fairgrad(gram: Gram, *, alpha: jax.Array | float = 1.0, log2_scale: jax.Array | int = 0) -> Weights:
    """Weigh tasks so that their progress is shared α-fairly.

    α = 1 is Nash bargaining without its limit on the length, α → 0 approaches the direction of the mean, and
    α → ∞ serves the worst-off task only. Every task gains: ⟨gᵢ,u⟩ = wᵢ^(−1/α) > 0.

    max_u Σ ⟨gᵢ,u⟩^(1−α)/(1−α)  in a ball;   Gw = w^(−1/α),  w > 0

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      alpha: α > 0.
      log2_scale: k, if `gram` is that of 2⁻ᵏJ.

    Returns:
      w, shape `(T,)`, in units of length^(−2α/(1+α)); when all tasks agree on g they sum to
      T·(T‖g‖²)^(−α/(1+α)). A zero gradient gets weight zero. At a Pareto stationary point the equation has no
      solution and w = 0; published code returns where its least-squares iteration stopped.

    Raises:
      ValueError: If `alpha` is a number that is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.weightings.fairgrad(task_grads @ task_grads.T).round(4)
      Array([0.5915, 0.4071], dtype=float32)

    References:
      Ban & Ji, "Fair resource allocation in multi-task learning", arXiv 2402.15638.
    """
    if isinstance(alpha, int | float) and not alpha > 0:
        raise ValueError(f"expected alpha to be positive, got {alpha}; for alpha = 0 use weightings.mean.")
    return alpha_fair(gram, alpha=alpha, log2_scale=log2_scale).x
