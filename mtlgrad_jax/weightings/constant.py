"""Fixed weights, chosen by hand."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from mtlgrad_jax.ground.grams import check_gram
from mtlgrad_jax.typing import Gram, Weights


def constant(gram: Gram, *, weights: ArrayLike) -> Weights:
    """Weigh tasks by fixed numbers.

    Linear scalarisation: gradient descent on Σ wᵢLᵢ.

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape matters.
      weights: w, shape `(T,)`.

    Returns:
      w, shape `(T,)`; the weights sum to what was passed.

    Raises:
      ValueError: If `weights` is not of shape `(T,)`.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> mtl.weightings.constant(jnp.eye(2), weights=(1.0, 0.1))
      Array([1. , 0.1], dtype=float32)
    """
    num_tasks = check_gram(gram)
    fixed = jnp.asarray(weights, gram.dtype)
    if fixed.shape != (num_tasks,):
        raise ValueError(f"expected weights of shape ({num_tasks},), one number per task, got {fixed.shape}.")
    return fixed
