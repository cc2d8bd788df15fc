"""The average of the task gradients."""

import jax.numpy as jnp

from mtlgrad_jax.ground.grams import check_gram
from mtlgrad_jax.typing import Gram, Weights


def mean(gram: Gram) -> Weights:
    """Weigh all tasks alike, with weights that sum to one.

    The baseline: gradient descent on the average loss. It may hurt tasks.

    wᵢ = 1/T

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape matters.

    Returns:
      w, shape `(T,)`; the weights always sum to one.

    Raises:
      ValueError: If `gram` is not square.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> mtl.weightings.mean(jnp.eye(4))
      Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    return jnp.full_like(gram[0], 1 / check_gram(gram))
