"""MoDo: one projected gradient step on the weights per call, from two independent batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.typing import Gram, StatefulWeighting
from mtlgrad_jax.weightings._simplex import descend


class ModoState(NamedTuple):
    """What `modo` remembers."""

    weights: jax.Array  # (T,), on the simplex


def modo(*, gamma: float = 0.1, rho: float = 0.1) -> StatefulWeighting:
    """Weigh tasks by following MGDA's program one unbiased step per call.

    The gradient of ‖Jᵀw‖² contains a product of two expectations; two independent batches estimate it without
    bias, which one batch cannot.

    w ← Π_Δ(w − γ(J₁J₂ᵀ + ρI)w)

    Args:
      gamma: γ, in units of one over a squared gradient length: its effect depends on the scale of the losses.
      rho: ρ, which draws the weights together.

    Returns:
      A `typing.StatefulWeighting` that needs `cross_gram`, J₁J₂ᵀ. The weights sum to one, whether tasks agree
      or not, and start equal. If the cross Gram matrix is not finite they stay as they are.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.modo(rho=0.0)
      >>> gram = jnp.diag(jnp.array([1.0, 2.0]))
      >>> weighting.update(gram, weighting.init(2), cross_gram=gram)[0]
      Array([0.525, 0.475], dtype=float32)

    References:
      Chen et al., arXiv 2305.20057, (2.9).
    """

    def init(num_tasks):
        return ModoState(jnp.ones(num_tasks) / num_tasks)

    def update(gram, state, *, cross_gram=None):
        cross_gram = check_cross_gram(cross_gram, gram, "modo")
        weights = state.weights.astype(gram.dtype)
        slope = dot(cross_gram, weights) + jnp.asarray(rho, gram.dtype) * weights
        weights = descend(weights, slope, jnp.asarray(gamma, gram.dtype))
        return weights, ModoState(weights.astype(state.weights.dtype))

    return StatefulWeighting(init, update)


def check_cross_gram(cross_gram: jax.Array | None, gram: Gram, method: str) -> jax.Array:
    """Return the cross Gram matrix, zero if it is not finite, or explain where it comes from."""
    if cross_gram is None or jnp.shape(cross_gram) != gram.shape:
        got = "none" if cross_gram is None else jnp.shape(cross_gram)
        raise ValueError(
            f"{method} expected cross_gram of shape {gram.shape}, got {got}; the transformation computes it from "
            "tx.update(task_grads, state, params, second_task_grads=second_task_grads)."
        )
    return jnp.where(jnp.all(jnp.isfinite(cross_gram)), cross_gram, 0).astype(gram.dtype)
