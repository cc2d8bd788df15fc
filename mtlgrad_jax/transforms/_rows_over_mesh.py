"""Stacked gradients behind the interface of `typing.Jacobian`, for a transformation that knows its mesh axes."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.leaves import (
    as_matrix,
    at_least_single,
    contract,
    has_few_rows,
    has_long_rows,
    in_slices,
    is_inexact,
    map_parts,
    parts,
    weighted_sum,
    widest,
)
from mtlgrad_jax.ground.meshes import AxisName, sum_of_pieces
from mtlgrad_jax.ground.ranges import powers_of_two
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.typing import Gram, PyTree, Weights


class RowsOverMesh(NamedTuple):
    """Rows that are not finite take no part in a combination, and half precision is summed and returned wide."""

    task_grads: PyTree
    finite: jax.Array  # (T,) bool
    axis_name: AxisName

    def combine(self, weights: Weights) -> PyTree:
        """Return Jᵀw in float32 or better."""
        weights, finite = lax.optimization_barrier((weights, self.finite))  # in a loop, a choice of rows stays in it
        return jax.tree.map(partial(_combined, weights, finite), self.task_grads)

    def push(self, direction: PyTree) -> jax.Array:
        """Return Jv."""
        return stacked.push(self.task_grads, direction, axis_name=self.axis_name)

    def gram_in(self, scales: PyTree, log2_scale: jax.Array) -> Gram:
        """Return JDJᵀ / 4ᵏ."""
        products = []
        for scale, leaf in zip(jax.tree.leaves(scales), jax.tree.leaves(self.task_grads), strict=True):
            if is_inexact(leaf):
                first, second = powers_of_two(-2 * log2_scale, scale.dtype)
                products += [_square_in(scale * first * second, part) for part in parts(leaf)]
        dtype = widest(products)
        return sum_of_pieces([product.astype(dtype) for product in products], self.axis_name)


def _combined(weights, finite, leaf):
    if not is_inexact(leaf):
        return jnp.zeros(leaf.shape[1:], leaf.dtype)
    wide = leaf.astype(at_least_single(leaf.dtype))
    if has_few_rows(leaf):
        return weighted_sum(wide, weights, finite)
    return lax.cond(
        jnp.all(finite),  # leaving rows out costs a pass over J
        lambda: weighted_sum(wide, weights),
        lambda: weighted_sum(wide, weights, finite),
    )


def _square_in(scale, rows):
    """Return RDRᵀ of one real leaf; where a lone CPU holds long rows, no whole copy DR is written and read again."""

    def whole(scale, rows):
        scaled = scale[None] * rows.astype(scale.dtype)
        return contract(scaled, rows.astype(scaled.dtype), 1)

    def by_slices(scale, rows):
        return in_slices(lambda rows, scale: whole(scale[0], rows), as_matrix(rows), scale.reshape(1, -1))

    if jax.device_count() == 1 and has_long_rows(rows):
        return lax.platform_dependent(scale, rows, cpu=by_slices, default=whole)
    return whole(scale, rows)


def widen(leaf: jax.Array) -> jax.Array:
    """Return a half-precision leaf in float32."""
    if not is_inexact(leaf):
        return leaf
    return map_parts(lambda part: part.astype(at_least_single(part.dtype)), leaf)
