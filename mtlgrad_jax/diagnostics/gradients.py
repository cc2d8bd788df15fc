"""Angles between the task gradients, and their lengths."""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtlgrad_jax.ground.grams import check_gram, reciprocal, row_norms
from mtlgrad_jax.typing import Gram


def resolution(dtype: DTypeLike) -> float:
    """Return the smallest cosine that a Gram matrix of this type tells from zero, √ε.

    A Gram matrix holds squares, so what it knows of a short direction is known to √ε of the long gradients only.

    Args:
      dtype: Of the Gram matrix, float32 or float64.

    Returns:
      √ε, 3.5e-4 in float32.

    Example:
      >>> import mtlgrad_jax as mtl
      >>> round(mtl.diagnostics.resolution("float32"), 6)
      0.000345
    """
    return math.sqrt(jnp.finfo(dtype).eps)


@jax.jit
def cosines(gram: Gram) -> jax.Array:
    """Compute the cosines of the angles between task gradients.

    They are the Gram matrix of the unit gradients, so every function of a Gram matrix takes them too and then
    ignores the lengths.

    Cᵢⱼ = ⟨gᵢ,gⱼ⟩ / (‖gᵢ‖‖gⱼ‖)

    Args:
      gram: G = JJᵀ, shape `(T, T)`.

    Returns:
      C, shape `(T, T)`, in [−1, 1], with ones on the diagonal; a zero gradient has cosine zero with all, itself
      included. A gradient that is not finite has NaN.

    Raises:
      ValueError: If `gram` is not a square matrix of floats.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[3.0, 4.0], [-2.0, 0.0]])
      >>> mtl.diagnostics.cosines(task_grads @ task_grads.T)
      Array([[ 1. , -0.6],
             [-0.6,  1. ]], dtype=float32)
    """
    num_tasks = check_gram(gram)
    inverse = reciprocal(row_norms(gram))
    scaled = jnp.clip(gram * inverse[:, None] * inverse[None, :], -1, 1)
    return jnp.where(jnp.eye(num_tasks, dtype=bool), jnp.sign(scaled), scaled)


@jax.jit
def conflicts(gram: Gram) -> jax.Array:
    """Tell which pairs of task gradients oppose each other: a step along one of them raises the other's loss.

    cos(gᵢ,gⱼ) < −√ε

    Args:
      gram: G = JJᵀ, shape `(T, T)`.

    Returns:
      Booleans, shape `(T, T)`, symmetric; false on the diagonal and for a zero gradient.

    Raises:
      ValueError: If `gram` is not a square matrix of floats.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.diagnostics.conflicts(jnp.array([[1.0, -1.0], [-1.0, 4.0]]))
      Array([[False,  True],
             [ True, False]], dtype=bool)

    References:
      Yu et al. (PCGrad), arXiv 2001.06782, definition 1.
    """
    return cosines(gram) < -resolution(gram.dtype)


@jax.jit
def relative_lengths(gram: Gram) -> jax.Array:
    """Compute the lengths of the task gradients relative to the longest.

    ‖gᵢ‖ / max‖g‖

    Args:
      gram: G = JJᵀ, shape `(T, T)`.

    Returns:
      Shape `(T,)`, in [0, 1]; zeros if every gradient is zero.

    Raises:
      ValueError: If `gram` is not a square matrix of floats.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.diagnostics.relative_lengths(jnp.diag(jnp.array([100.0, 1.0])))
      Array([1. , 0.1], dtype=float32)
    """
    check_gram(gram)
    lengths = row_norms(gram)
    longest = jnp.max(lengths)
    return lengths / jnp.where(longest == 0, 1, longest)


@jax.jit
def magnitude_similarity(gram: Gram) -> jax.Array:
    """Compare the lengths of the task gradients pair by pair.

    2‖gᵢ‖‖gⱼ‖ / (‖gᵢ‖² + ‖gⱼ‖²)

    Args:
      gram: G = JJᵀ, shape `(T, T)`.

    Returns:
      Shape `(T, T)`, in [0, 1]: one where two gradients are of the same length (two zero ones too), 0.02 where
      one is a hundred times as long.

    Raises:
      ValueError: If `gram` is not a square matrix of floats.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.diagnostics.magnitude_similarity(jnp.diag(jnp.array([1.0, 4.0])))
      Array([[1. , 0.8],
             [0.8, 1. ]], dtype=float32)

    References:
      Yu et al. (PCGrad), arXiv 2001.06782, definition 2.
    """
    check_gram(gram)
    lengths = row_norms(gram)
    shorter = jnp.minimum(lengths[:, None], lengths[None, :])
    longer = jnp.maximum(lengths[:, None], lengths[None, :])
    ratio = jnp.where(longer > 0, shorter * reciprocal(longer), 1)
    return 2 * ratio / (1 + ratio * ratio)
