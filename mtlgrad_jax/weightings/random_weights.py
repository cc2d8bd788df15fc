"""Random loss weighting."""

import jax

from mtlgrad_jax.typing import Gram, Weights


def random_weights(gram: Gram, key: jax.Array) -> Weights:
    """Weigh tasks at random, by a softmax of normal numbers drawn anew at every step.

    A baseline: on average it is the mean of the gradients, with noise that may help to leave sharp minima.

    w = softmax(z),   z ~ N(0, I)

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape is used.
      key: A `jax.random.key`, see `keyed` for one per step.

    Returns:
      w, shape `(T,)`, positive, summing to one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> weights = mtl.weightings.random_weights(jnp.eye(3), jax.random.key(0))
      >>> bool(jnp.all(weights > 0)), float(jnp.sum(weights))
      (True, 1.0)

    References:
      Lin et al., arXiv 2111.10603.
    """
    return jax.nn.softmax(jax.random.normal(key, gram.shape[:1], gram.dtype))
