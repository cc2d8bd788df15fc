"""A Gram matrix from rows that are computed when they are needed and never all held."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.leaves import contract, widest
from mtlgrad_jax.ground.meshes import split_axes, sum_of_pieces
from mtlgrad_jax.jacobians._unit_rows import to_unit, undo_unit
from mtlgrad_jax.typing import Gram


def gram_in_blocks(
    row: Callable[[jax.Array], list[jax.Array]], losses: jax.Array, block_size: int | None
) -> tuple[Gram, jax.Array]:
    """Compute JJᵀ block by block, two blocks of rows alive at a time.

    The block of rows on the left is kept while those on its right are computed anew: about
    T²/(2·block_size) + T/2 gradients for T rows, `2·block_size` of them in memory.

    Args:
      row: `row(index)`, a list of leaves, with an int32 scalar; vmapped over the block.
      losses: Shape `(T,)`, of which only the length counts, and where they differ between devices.
      block_size: Rows per block, all at once for None.

    Returns:
      G, shape `(T, T)`, and k, as `stacked.scaled_gram`.
    """
    num_rows = losses.shape[0]
    size = num_rows if block_size is None else min(block_size, num_rows)
    num_blocks = -(-num_rows // size)

    def block(number):
        indices = jnp.minimum(number * size + jnp.arange(size, dtype=jnp.int32), num_rows - 1)
        leaves = jax.vmap(row)(indices)
        dtype = widest(leaves)
        split = split_axes(leaves, losses)
        return *jax.vmap(lambda leaves: to_unit(leaves, dtype, split))(leaves), split

    def left_of_diagonal(number):
        own, exponents, split = block(number)
        diagonal = _products(own, own, split)

        def against(other):
            return lax.cond(
                other < number, lambda: _products(own, block(other)[0], split), lambda: jnp.zeros_like(diagonal)
            )

        blocks = lax.map(against, jnp.arange(num_blocks, dtype=jnp.int32))
        return jnp.where(
            (jnp.arange(num_blocks, dtype=jnp.int32) == number)[:, None, None], diagonal, blocks
        ), exponents

    blocks, exponents = lax.map(left_of_diagonal, jnp.arange(num_blocks, dtype=jnp.int32))
    lower = jnp.tril(blocks.transpose(0, 2, 1, 3).reshape(num_blocks * size, num_blocks * size)[:num_rows, :num_rows])
    return undo_unit(lower + jnp.tril(lower, -1).T, exponents.reshape(-1)[:num_rows])


def _products(left, right, split):
    dtype = widest(left)
    return sum_of_pieces([contract(a, b, 1).astype(dtype) for a, b in zip(left, right, strict=True)], split)
