"""Stacked gradients behind the interface of `typing.Jacobian`, for a transformation that knows its mesh axes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.leaves import at_least_single, is_inexact, map_parts
from mtlgrad_jax.ground.meshes import AxisName
from mtlgrad_jax.ground.ranges import powers_of_two
from mtlgrad_jax.ground.rows import cross_products
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.typing import Gram, PyTree, Weights


class RowsOverMesh(NamedTuple):
    """Rows that are not finite take no part in a combination, and half precision is summed and returned wide."""

    task_grads: PyTree
    finite: jax.Array  # (T,) bool
    axis_name: AxisName

    def combine(self, weights: Weights) -> PyTree:
        """Return Jᵀw in float32 or better."""
        wide = jax.tree.map(widen, self.task_grads)
        return lax.cond(
            jnp.all(self.finite),  # leaving rows out costs a pass over J
            lambda: stacked.combine(wide, weights),
            lambda: stacked.combine(wide, weights, keep=self.finite),
        )

    def push(self, direction: PyTree) -> jax.Array:
        """Return Jv."""
        return stacked.push(self.task_grads, direction, axis_name=self.axis_name)

    def gram_in(self, scales: PyTree, log2_scale: jax.Array) -> Gram:
        """Return JDJᵀ / 4ᵏ."""

        def scale(scales, leaf):
            if not is_inexact(leaf):
                return leaf
            first, second = powers_of_two(-2 * log2_scale, scales.dtype)
            unit = (scales * first * second)[None]
            return map_parts(lambda part: unit * part.astype(unit.dtype), leaf)

        left = jax.tree.map(scale, scales, self.task_grads)
        return cross_products(left, self.task_grads, axis_name=self.axis_name)


def widen(leaf: jax.Array) -> jax.Array:
    """Return a half-precision leaf in float32."""
    if not is_inexact(leaf):
        return leaf
    return map_parts(lambda part: part.astype(at_least_single(part.dtype)), leaf)
