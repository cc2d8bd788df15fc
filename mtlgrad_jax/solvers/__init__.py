"""Small dense convex programs: arrays in, solution and certificate out."""

from mtlgrad_jax.solvers import certificates
from mtlgrad_jax.solvers.frank_wolfe import frank_wolfe
from mtlgrad_jax.solvers.min_norm import min_norm
from mtlgrad_jax.solvers.nnls import nnls

__all__ = ["certificates", "frank_wolfe", "min_norm", "nnls"]
