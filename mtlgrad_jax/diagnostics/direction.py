"""What the update u = Jᵀw does to every task."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.diagnostics.gradients import cosines, relative_lengths, resolution
from mtlgrad_jax.ground.grams import check_gram, dot, reciprocal
from mtlgrad_jax.solvers import min_norm
from mtlgrad_jax.solvers.min_norm import scale_to_simplex
from mtlgrad_jax.typing import Gram, Weights


@jax.jit
def progress(gram: Gram, weights: Weights) -> jax.Array:
    """Compute how fast the update lowers every loss, to first order.

    A step −ηu changes loss i by −η times this number; if it is negative, the step raises the loss.

    ⟨gᵢ,u⟩ = (Gw)ᵢ

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      weights: w, shape `(T,)`.

    Returns:
      Shape `(T,)`, in the units of G; with a G of 2⁻ᵏJ multiply it by 4ᵏ.

    Raises:
      ValueError: If `gram` is not a square matrix of floats or `weights` is not one number per task.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.diagnostics.progress(jnp.array([[1.0, -1.0], [-1.0, 4.0]]), jnp.array([0.5, 0.5]))
      Array([0. , 1.5], dtype=float32)
    """
    return dot(gram, _checked(gram, weights))


@jax.jit
def alignment(gram: Gram, weights: Weights) -> jax.Array:
    """Compute the cosine of the angle between the update and every task gradient.

    cos(gᵢ,u) = ⟨gᵢ,u⟩ / (‖gᵢ‖‖u‖)

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      weights: w, shape `(T,)`; only their ratios matter.

    Returns:
      Shape `(T,)`, in [−1, 1], known to √ε. Zero for a zero gradient, and all zero for an update whose
      parts cancel as far as the Gram matrix can tell, ‖u‖² ≤ T·ε·(Σ|wᵢ|‖gᵢ‖)².

    Raises:
      ValueError: If `gram` is not a square matrix of floats or `weights` is not one number per task.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[3.0, 0.0], [0.0, 4.0]])
      >>> mtl.diagnostics.alignment(task_grads @ task_grads.T, jnp.ones(2))
      Array([0.6, 0.8], dtype=float32)
    """
    shares = _signed_shares(gram, weights)
    slope = dot(cosines(gram), shares)  # ⟨gᵢ,u⟩/‖gᵢ‖ in units of Σ|wᵢ|‖gᵢ‖
    squared = dot(shares, slope)
    length = jnp.sqrt(jnp.where(squared > gram.shape[0] * jnp.finfo(gram.dtype).eps, squared, 0))
    return jnp.clip(slope * reciprocal(length), -1, 1)


@jax.jit
def hurt_tasks(gram: Gram, weights: Weights) -> jax.Array:
    """Tell which losses the update raises, to first order.

    cos(gᵢ,u) < −√ε

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      weights: w, shape `(T,)`.

    Returns:
      Booleans, shape `(T,)`; all false for an update that is zero, see `alignment`.

    Raises:
      ValueError: If `gram` is not a square matrix of floats or `weights` is not one number per task.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> opposed = jnp.array([[1.0, -2.0], [-2.0, 9.0]])
      >>> mtl.diagnostics.hurt_tasks(opposed, jnp.ones(2))
      Array([ True, False], dtype=bool)
      >>> mtl.diagnostics.hurt_tasks(opposed, mtl.weightings.mgda(opposed))
      Array([False, False], dtype=bool)
    """
    return alignment(gram, weights) < -resolution(gram.dtype)


@jax.jit
def effective_tasks(gram: Gram, weights: Weights) -> jax.Array:
    """Count the tasks that make up the update: T if all contribute alike, one if a single one does.

    (Σ cᵢ)² / Σ cᵢ²,   cᵢ = |wᵢ|‖gᵢ‖

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      weights: w, shape `(T,)`; only their ratios matter.

    Returns:
      A scalar from 1 to T; zero if nothing contributes.

    Raises:
      ValueError: If `gram` is not a square matrix of floats or `weights` is not one number per task.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> gram = jnp.diag(jnp.array([1.0, 1.0, 1e6]))
      >>> float(mtl.diagnostics.effective_tasks(gram, jnp.ones(3))) < 1.01  # the long gradient drowns the others
      True
      >>> float(mtl.diagnostics.effective_tasks(gram, mtl.weightings.inverse_norm(gram)))
      3.0
    """
    shares = _signed_shares(gram, weights)
    return jnp.sum(jnp.abs(shares)) ** 2 * reciprocal(dot(shares, shares))


@jax.jit
def stationarity(gram: Gram, weights: Weights | None = None) -> jax.Array:
    """Measure how far the parameters are from Pareto stationary, where no direction improves all tasks.

    ‖Σ αᵢgᵢ‖ / max‖g‖,   α ∈ Δ

    Args:
      gram: G = JJᵀ, shape `(T, T)`. Pass `cosines(gram)` for a measure that ignores the scale of the losses.
      weights: α is proportional to their positive part. By default those of `solvers.min_norm`, for which
        the measure is least, and zero exactly at the stationary points.

    Returns:
      A scalar in [0, 1], known to about √ε: the measure itself by default, an upper bound of it with any
      weights. Zero if a task's gradient is zero (by default) or all are.

    Raises:
      ValueError: If `gram` is not a square matrix of floats or `weights` is not one number per task.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> opposed = jnp.array([[1.0, -2.0], [-2.0, 4.0]])
      >>> float(mtl.diagnostics.stationarity(opposed)), float(mtl.diagnostics.stationarity(opposed, jnp.ones(2)))
      (0.0, 0.25)

    References:
      Désidéri, C. R. Acad. Sci. 350 (2012).
    """
    check_gram(gram)
    weights = min_norm(gram).x if weights is None else jnp.maximum(_checked(gram, weights), 0)
    weights = weights * reciprocal(jnp.max(weights))
    parts = scale_to_simplex(weights, jnp.ones_like(weights, dtype=bool)) * relative_lengths(gram)
    largest = jnp.max(parts)
    parts = parts * reciprocal(largest)
    return largest * jnp.sqrt(jnp.maximum(dot(parts, dot(cosines(gram), parts)), 0))


def _signed_shares(gram, weights):
    """Return wᵢ‖gᵢ‖ in units of Σ|wᵢ|‖gᵢ‖."""
    parts = _checked(gram, weights) * relative_lengths(gram)
    return parts * reciprocal(jnp.sum(jnp.abs(parts)))


def _checked(gram, weights):
    num_tasks = check_gram(gram)
    if jnp.shape(weights) != (num_tasks,):
        raise ValueError(
            f"expected weights of shape ({num_tasks},), one per task, got {jnp.shape(weights)}; batch with jax.vmap."
        )
    return jnp.asarray(weights).astype(gram.dtype)
