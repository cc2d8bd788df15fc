"""A root of JJᵀ from products with J: rows as J has them, in as many coordinates as there are tasks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers._packed_loop import while_loop

NUM_PASSES = 2  # the second finds what is shorter than the floor of the first

Products = Callable[[jax.Array], jax.Array]


class Root(NamedTuple):
    """R with RRᵀ = JJᵀ."""

    rows: jax.Array  # (T, T), each wrong by a rounding error of its length, where those of G are of its square
    rounding: jax.Array  # (), that error, relative
    num_passes: jax.Array  # () int32


class _Pass(NamedTuple):
    basis: jax.Array  # B (T, T), BJ as near to orthonormal as is known, what is short in J first
    root: Root
    unresolved: jax.Array  # () bool, whether some of BJ is still shorter than its rounding


def measure(gram: jax.Array, products: Products) -> Root:
    """Measure a root.

    With BJ orthonormal, the coordinates of the rows in it, JJᵀBᵀ, are a root. B is made from what is known so far, at
    first from G; what that rounds away is short in BJ, and long again in the next.

    Args:
      gram: G, shape `(T, T)`, the diagonal between one and four.
      products: B ↦ BJJᵀ, of T rows, to the precision of BJ.

    Returns:
      A `Root`. Its rounding error is that of the type, or as much as G and the products disagree by.
    """
    eps = jnp.finfo(gram.dtype).eps.item()
    floor = 4 * eps * jnp.trace(gram)
    lengths = jnp.sqrt(jnp.diagonal(gram))

    def advance(last):
        measured = products(last.basis)
        sizes = dot(jnp.abs(last.basis), lengths)[:, None] * lengths[None, :]
        disagreement = jnp.max(jnp.abs(measured - dot(last.basis, gram)) / sizes)
        rounding = jnp.where(last.root.num_passes == 0, jnp.maximum(disagreement, eps), last.root.rounding)
        upper = jnp.triu(dot(measured, last.basis.T))  # of a pair, the product that begins with the shorter
        values, vectors = jnp.linalg.eigh(upper + jnp.triu(upper, 1).T)
        vectors = vectors / jnp.sqrt(jnp.maximum(values, floor))[None, :]
        root = Root(dot(measured.T, vectors), rounding, last.root.num_passes + 1)
        return _Pass(dot(vectors.T, last.basis), root, values[0] < floor)

    def unfinished(last):
        return last.unresolved & (last.root.num_passes < NUM_PASSES)

    values, vectors = jnp.linalg.eigh(gram)
    basis = (vectors / jnp.sqrt(jnp.maximum(values, floor))[None, :]).T
    none = jnp.sum(0 * gram)  # varies over a mesh as the input does
    first = _Pass(basis, Root(0 * gram, none, none.astype(jnp.int32)), none == 0)
    return while_loop(unfinished, advance, first).root
