"""Primary and auxiliary tasks: follow the primaries, never hurt the auxiliaries."""

from mtlgrad_jax.solvers import min_norm
from mtlgrad_jax.typing import Gram, Solver, Weights


def primary_aux(gram: Gram, *, num_primary: int = 1, solver: Solver = min_norm) -> Weights:
    """Weigh tasks so that the update follows the primaries and raises no auxiliary loss.

    With one primary this is the projection of its gradient onto the directions that hurt no auxiliary;
    with p primaries it starts from their MGDA direction; with p = T it is MGDA. For a single auxiliary
    λ = (−⟨g,h⟩)₊/‖h‖².

    min ½‖Σ αᵢgᵢ + Σ λⱼhⱼ‖²,  α ∈ Δ on the first `num_primary` rows, λ ≥ 0 on the rest

    Args:
      gram: G = JJᵀ, shape `(T, T)`, the primaries first.
      num_primary: p, from 1 to T.
      solver: A function of `(gram, num_simplex=p)` returning a `Solution`; exact by default.

    Returns:
      w = (α, λ), shape `(T,)`; the primaries' weights sum to one, the auxiliaries' are zero when no
      task conflicts. A zero auxiliary gradient gets weight zero; a zero primary stops the update.

    Raises:
      ValueError: If `num_primary` is not between 1 and T.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[2.0, 0.0], [-1.0, 1.0]])
      >>> weights = mtl.weightings.primary_aux(task_grads @ task_grads.T)
      >>> weights, weights @ task_grads
      (Array([1., 1.], dtype=float32), Array([1., 1.], dtype=float32))

    References:
      Su, scientific-spaces 8907 (1)–(9); Lopez-Paz & Ranzato (GEM), arXiv 1706.08840; Chaudhry et al.
      (A-GEM), arXiv 1812.00420.
    """
    return solver(gram, num_simplex=num_primary).x
