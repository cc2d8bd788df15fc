"""Gradient-guided masking: keep the noisy examples whose gradient agrees with a clean one."""

import jax.numpy as jnp

from mtlgrad_jax.typing import Gram, Weights


def guided_masking(gram: Gram, *, clean_weight: float = 0.0) -> Weights:
    """Weigh examples so that those whose gradient opposes the clean gradient are left out.

    Row 0 is the gradient on trusted data, the other B rows are the gradients of single examples with possibly
    wrong labels. Where `primary_aux` corrects the sum of the noisy gradients, this drops examples one by one.

    u = c·g₀ + mean of {gᵢ : i ≥ 1, ⟨gᵢ,g₀⟩ > 0}

    Args:
      gram: G = JJᵀ, shape `(1 + B, 1 + B)`, the clean gradient in row 0. Only that row is read.
      clean_weight: c, the weight of the clean gradient itself; 0 uses it as a judge only.

    Returns:
      w, shape `(1 + B,)`: 1/n on the n examples kept, 0 on the others, c on row 0. The weights of the
      examples sum to one if any is kept (so also when all agree), to zero if none is: then the update is
      c·g₀. A zero gradient, clean or noisy, agrees with nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[1.0, 0.0], [2.0, 1.0], [-1.0, 3.0], [1.0, -5.0]])
      >>> mtl.weightings.guided_masking(task_grads @ task_grads.T)
      Array([0. , 0.5, 0. , 0.5], dtype=float32)

    References:
      Wang et al., "Gradient-guided loss masking for neural machine translation", arXiv 2102.13549.
    """
    kept = ((gram[0] > 0) & (jnp.arange(gram.shape[0]) > 0)).astype(gram.dtype)
    weights = kept / jnp.maximum(jnp.sum(kept), 1)
    return weights.at[0].set(jnp.asarray(clean_weight, gram.dtype))
