"""Eigenvalues of a Gram matrix, with the rounding error told apart from the rank."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import dot


def decompose(matrix: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return eigenvalues (ascending), eigenvectors, and which eigenvalues are more than rounding.

    Args:
      matrix: Positive semi-definite, shape `(n, n)`.

    Returns:
      λ, shape `(n,)`, with one in place of those that are rounding; V, shape `(n, n)`; a mask, shape `(n,)`.
    """
    values, vectors = _eigh(matrix)
    kept = values > matrix.shape[0] * jnp.finfo(matrix.dtype).eps * values[-1]
    return jnp.where(kept, values, 1), vectors, kept


@jax.custom_jvp
def _eigh(matrix):
    return tuple(jnp.linalg.eigh(matrix, symmetrize_input=False))


@_eigh.defjvp
def _turn(primals, tangents):
    """Differentiate, with vectors of one eigenvalue, which may be any of their span, at rest against each other."""
    values, vectors = _eigh(*primals)
    moved = dot(vectors.T, dot((tangents[0] + tangents[0].T) / 2, vectors))
    gap = values[None, :] - values[:, None]
    apart = jnp.abs(gap) > values.shape[0] * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    turned = jnp.where(apart, moved / jnp.where(apart, gap, 1), 0)
    return (values, vectors), (jnp.diagonal(moved), dot(vectors, turned))


def equal_cosines(correlation: jax.Array, present: jax.Array, target: jax.Array | None = None) -> jax.Array:
    """Return β = C⁺t: the combination of unit gradients that has these inner products with them, one by default.

    Args:
      correlation: C, shape `(T, T)`, unit diagonal.
      present: Boolean, shape `(T,)`; rows without a gradient are left out.
      target: t, shape `(T,)`; ones by default.

    Returns:
      β, shape `(T,)`; the least-squares answer if there is no exact one, zero if that is zero up to rounding.
    """
    num_tasks = present.shape[0]
    values, vectors, kept = decompose(jnp.where(present[:, None] & present[None, :], correlation, 0))
    wanted = present.astype(correlation.dtype) if target is None else jnp.where(present, target, 0)
    along = dot(vectors.T, wanted)
    share = jnp.where(kept, along / values, 0)
    answered = dot(share, along) > 8 * num_tasks * jnp.finfo(correlation.dtype).eps
    return jnp.where(answered & present, dot(vectors, share), 0)
