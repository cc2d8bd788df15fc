"""UPGrad: every gradient is freed of its conflicts, then they are added."""

import jax
from jax.typing import ArrayLike

from mtlgrad_jax.solvers import nnls
from mtlgrad_jax.solvers._full_precision import dot
from mtlgrad_jax.typing import Gram, Weights
from mtlgrad_jax.weightings import _preference


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
    repairs = jax.vmap(lambda column: nnls(gram, column).x, in_axes=1, out_axes=1)(gram)
    return p + dot(repairs, p)
