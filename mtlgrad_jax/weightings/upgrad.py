"""UPGrad: every gradient is freed of its conflicts, then they are added."""

from functools import partial

import jax
from jax import lax
from jax.typing import ArrayLike

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import nnls
from mtlgrad_jax.typing import Gram, Weights
from mtlgrad_jax.weightings import _preference

CACHED = 24  # programs; from here on a CPU solves them faster one by one, each in as many steps as it needs


def upgrad(gram: Gram, *, preference: ArrayLike | None = None) -> Weights:
    """Weigh tasks so that each gradient, projected onto the directions that hurt no task, counts.

    The update has a non-negative inner product with every gradient and is linear in the length of each.

    u = Σ pᵢ π(gᵢ),  π(g) = argmin_d ‖d − g‖²  s.t.  ⟨gⱼ,d⟩ ≥ 0;   π(gᵢ) = gᵢ + Jᵀxᵢ,  xᵢ = argmin_{x≥0} ½xᵀGx + xᵀGeᵢ

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      preference: p, shape `(T,)`, non-negative; 1/T each by default.

    Returns:
      w, shape `(T,)`; sums to Σpᵢ (one by default) when no two tasks conflict, to more where they do. A zero
      gradient keeps the weight pᵢ. The T programs are exact and without regularisation, which in published
      code makes the answer the mean for short gradients and lets small tasks be hurt.

    Raises:
      ValueError: If `preference` is not of shape `(T,)`.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.weightings.upgrad(task_grads @ task_grads.T).round(4)
      Array([1.1111, 0.7895], dtype=float32)

    References:
      Quinton & Rey, "Jacobian descent for multi-objective optimization", arXiv 2406.16232, (4).
    """
    p = _preference.resolve(preference, gram)
    return p + dot(p, _repairs(gram))


def _repairs(gram):
    """Return xᵢ in row i: all programs at once, or one by one where a core's cache holds one and not all."""
    repair = lambda row: nnls(gram, row).x
    together, one_by_one = jax.vmap(repair), partial(lax.map, repair)
    if gram.shape[0] < CACHED:
        return together(gram)
    return lax.platform_dependent(gram, cpu=one_by_one, default=together)
