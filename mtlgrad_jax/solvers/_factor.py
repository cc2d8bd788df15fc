"""Cholesky factors of small matrices, and of larger ones block by block."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import linalg

from mtlgrad_jax.ground.grams import diagonal, dot

# Measured with jaxlib on two cores: LAPACK starts threads of its own from 256 rows on, and for several right-hand sides
# from 32 on. They wait for each other beside XLA's, in bad moments 27 ms for what takes one thread 0.5 ms.
LARGEST = 255
BLOCK = 128  # a power of two


class Factor(NamedTuple):
    """The factor of a positive definite matrix A."""

    solve: Callable[[jax.Array], jax.Array]  # b ↦ A⁻¹b, linear
    weakest: jax.Array  # (), smallest entry of the factor's diagonal, an upper bound of √λ for the smallest λ of A


def cholesky(matrix: jax.Array) -> Factor:
    """Factorise a positive definite matrix; not finite if it is none.

    Args:
      matrix: A, shape `(n, n)`, symmetric.

    Returns:
      A `Factor`.
    """
    if matrix.shape[0] > LARGEST:
        columns, inverses = _in_blocks(matrix)
        weakest = 1 / jnp.max(jnp.stack([jnp.diagonal(inverse) for inverse in inverses]))
        return Factor(partial(_substitute_blocks, columns, inverses), weakest)
    # LAPACK's layout of a symmetric matrix: no copy.
    factor = linalg.cholesky(matrix.T, symmetrize_input=False)
    return Factor(partial(_substitute, factor), jnp.min(diagonal(factor)))


def of_columns(matrix: jax.Array) -> Factor:
    """Factorise MᵀM by orthogonal steps on M, which lose half as many digits as a product would.

    Args:
      matrix: M, shape `(m, n)`, m ≥ n.

    Returns:
      A `Factor`.
    """
    upper = jnp.linalg.qr(matrix, mode="r")
    return Factor(partial(_substitute, upper.T), jnp.min(jnp.abs(jnp.diagonal(upper))))


def _substitute(factor, rhs):
    column = linalg.triangular_solve(factor, rhs[:, None], left_side=True, lower=True)
    return linalg.triangular_solve(factor, column, left_side=True, lower=True, transpose_a=True)[:, 0]


def _in_blocks(matrix):
    """Factorise by block columns, with products of matrices and factors of blocks only."""
    n = matrix.shape[0]
    num_blocks = -(-n // BLOCK)
    padding = num_blocks * BLOCK - n
    matrix = jnp.pad(matrix, (0, padding)) + jnp.diag((jnp.arange(n + padding) >= n).astype(matrix.dtype))
    cuts = [slice(k * BLOCK, (k + 1) * BLOCK) for k in range(num_blocks)]
    columns, inverses = [], []
    for cut in cuts:
        column = matrix[cut.start :, cut]
        inverse = _invert(linalg.cholesky(column[:BLOCK].T, symmetrize_input=False))
        column = dot(column, inverse.T)
        rest = dot(column[BLOCK:], column[BLOCK:].T)
        matrix = matrix.at[cut.stop :, cut.stop :].add(-rest)
        columns.append(column[BLOCK:])
        inverses.append(inverse)
    return columns, inverses


def _substitute_blocks(columns, inverses, rhs):
    cuts = [slice(k * BLOCK, (k + 1) * BLOCK) for k in range(len(inverses))]
    x = jnp.pad(rhs, (0, len(inverses) * BLOCK - rhs.size))
    for cut, below, inverse in zip(cuts, columns, inverses, strict=True):
        x = x.at[cut].set(dot(inverse, x[cut]))
        x = x.at[cut.stop :].add(-dot(below, x[cut]))
    for cut, below, inverse in reversed(list(zip(cuts, columns, inverses, strict=True))):
        x = x.at[cut].set(dot(inverse.T, x[cut] - dot(below.T, x[cut.stop :])))
    return x[: rhs.size]


def _invert(lower):
    """Invert a lower triangle from blocks of one on, doubling: the corner of two blocks a, c over b is −c⁻¹ba⁻¹."""
    inverses = (1 / jnp.diagonal(lower))[:, None, None]
    size = 1
    while size < lower.shape[0]:
        blocks = lower.reshape(-1, 2 * size, lower.shape[0] // (2 * size), 2 * size)
        corners = jnp.diagonal(blocks[:, size:, :, :size], axis1=0, axis2=2).transpose(2, 0, 1)
        first, second = inverses[::2], inverses[1::2]
        corners = -jnp.matmul(jnp.matmul(second, corners, precision="highest"), first, precision="highest")
        top = jnp.concatenate([first, jnp.zeros_like(first)], axis=2)
        inverses = jnp.concatenate([top, jnp.concatenate([corners, second], axis=2)], axis=1)
        size *= 2
    return inverses[0]
