"""Methods: a Gram matrix in, weights out, one file each."""

from mtlgrad_jax.weightings.mgda import mgda
from mtlgrad_jax.weightings.primary_aux import primary_aux

__all__ = ["mgda", "primary_aux"]
