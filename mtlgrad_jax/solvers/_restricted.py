"""The linear algebra that every method here repeats: solve on the free coordinates."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import _factor

NUM_REFINEMENTS = 6


def factorize(matrix: jax.Array, free: jax.Array, ridge: jax.Array | float) -> _factor.Factor:
    """Factorise A + ridge·I on the free coordinates, and the identity elsewhere.

    Args:
      matrix: A, shape `(n, n)`, positive semi-definite.
      free: Boolean, shape `(n,)`.
      ridge: A scalar, or shape `(n,)`.

    Returns:
      A factor; its values are not finite if there is none.
    """
    mask = free.astype(matrix.dtype)
    diagonal = jnp.where(np.eye(mask.size, dtype=bool), (ridge * mask + (1 - mask))[None, :], 0)
    return _factor.cholesky(matrix * mask[:, None] * mask[None, :] + diagonal)


def relative(matrix: jax.Array, x: jax.Array, diagonal: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return A∘xxᵀ plus a diagonal, the curvature of relative changes of x, scaled to a diagonal of ones.

    Args:
      matrix: A, shape `(n, n)`.
      x: Shape `(n,)`.
      diagonal: Shape `(n,)`, positive.

    Returns:
      DMD and the diagonal of D, in which M = A∘xxᵀ + diag(diagonal) and (DMD)ᵢᵢ = 1.
    """
    curvature = matrix * x[:, None] * x[None, :] + jnp.diag(diagonal)
    scale = lax.rsqrt(jnp.diagonal(curvature))
    return curvature * scale[:, None] * scale[None, :], scale


def factorize_root(root: jax.Array, free: jax.Array, ridge: jax.Array | float) -> _factor.Factor:
    """Factorise RRᵀ + ridge·I on the free coordinates, and the identity elsewhere, without squaring R.

    Args:
      root: R, shape `(n, m)`.
      free: Boolean, shape `(n,)`.
      ridge: A scalar.

    Returns:
      A factor, to the precision of R itself.
    """
    mask = free.astype(root.dtype)
    diagonal = jnp.where(np.eye(mask.size, dtype=bool), (jnp.sqrt(ridge) * mask + (1 - mask))[None, :], 0)
    return _factor.of_columns(jnp.concatenate([root.T * mask[None, :], diagonal]))


def differentiate(matrix: jax.Array, free: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Return b ↦ −y, Ay = b on a face: how its minimum moves when the slope there rises by b.

    Linear in b, so that it is transposed for reverse mode. Where A is singular the minimum is not unique, and the
    move is filtered: λ/(λ + ρ)² with ρ = √ε, its powers repeated, stands for 1/λ, and for zero at λ = 0.

    Args:
      matrix: A, shape `(n, n)`, positive semi-definite, diagonal of order one.
      free: Boolean, shape `(n,)`.

    Returns:
      A linear function of vectors of shape `(n,)`, always finite, zero where not free.
    """
    mask = free.astype(matrix.dtype)
    masked = matrix * mask[:, None] * mask[None, :]
    factor = factorize(matrix, free, jnp.finfo(matrix.dtype).eps.item() ** 0.5)

    def repeat(rhs):
        y = factor.solve(rhs * mask)
        for _ in range(NUM_REFINEMENTS):
            y = y + factor.solve((rhs - dot(masked, y)) * mask)
        return y

    return lambda rhs: -repeat(dot(masked, repeat(rhs)))
