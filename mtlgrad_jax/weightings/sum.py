"""The sum of the task gradients."""

import jax.numpy as jnp

from mtlgrad_jax.ground.grams import check_gram
from mtlgrad_jax.typing import Gram, Weights


def sum(gram: Gram) -> Weights:
    """Weigh every task by one.

    Gradient descent on the sum of the losses: `mean` with a T times larger learning rate.

    wᵢ = 1

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape matters.

    Returns:
      w, shape `(T,)`; the weights always sum to T.

    Raises:
      ValueError: If `gram` is not square.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> mtl.weightings.sum(jnp.eye(2))
      Array([1., 1.], dtype=float32)
    """
    check_gram(gram)
    return jnp.ones_like(gram[0])
