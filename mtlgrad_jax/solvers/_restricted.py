"""The one linear-algebra step that every active-set method repeats: solve on the free coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import linalg

from mtlgrad_jax.ground.grams import dot


def minimize(
    quadratic: jax.Array, linear: jax.Array, free: jax.Array, start: jax.Array | None, rho: float
) -> jax.Array:
    """Minimise ½xᵀQx + cᵀx over x with x = 0 outside `free`, by two proximal Newton steps.

    A step minimises ½xᵀQx + cᵀx + ½ρ‖x − previous‖². With ρ a few rounding units the factor exists
    whatever the rank of Q, and on a well-conditioned face the second step is iterative refinement.

    Args:
      quadratic: Q, shape `(n, n)`, positive semi-definite, diagonal of order one.
      linear: c, shape `(n,)`.
      free: Boolean, shape `(n,)`.
      start: Shape `(n,)`, zero outside `free`; None stands for zero.
      rho: ρ.

    Returns:
      x, shape `(n,)`; not finite if there is no factor.
    """
    mask = free.astype(quadratic.dtype)
    diagonal = jnp.where(np.eye(mask.size, dtype=bool), (rho * mask + (1 - mask))[None, :], 0)
    matrix = quadratic * mask[:, None] * mask[None, :] + diagonal
    factor = linalg.cholesky(matrix.T, symmetrize_input=False)  # LAPACK's layout of a symmetric matrix: no copy

    def solve(rhs):
        column = (rhs * mask)[:, None]
        column = linalg.triangular_solve(factor, column, left_side=True, lower=True)
        column = linalg.triangular_solve(factor, column, left_side=True, lower=True, transpose_a=True)
        return column[:, 0]

    x = -solve(linear) if start is None else start - solve(dot(quadratic, start) + linear)
    return x - solve(dot(quadratic, x) + linear)


def rounding_error(quadratic: jax.Array, linear: jax.Array, x: jax.Array) -> jax.Array:
    """Bound, up to a small factor, the rounding error of each component of Qx + c."""
    eps = jnp.finfo(quadratic.dtype).eps
    return eps * (dot(jnp.abs(quadratic), jnp.abs(x)) + jnp.abs(linear))
