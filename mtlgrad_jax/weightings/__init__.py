"""Methods: a Gram matrix in, weights out, one file each."""

from mtlgrad_jax.weightings.guided_masking import guided_masking
from mtlgrad_jax.weightings.inverse_norm import inverse_norm
from mtlgrad_jax.weightings.mgda import mgda
from mtlgrad_jax.weightings.primary_aux import primary_aux

__all__ = ["guided_masking", "inverse_norm", "mgda", "primary_aux"]
