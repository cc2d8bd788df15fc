"""Stacks of task gradients, tree by tree: lengths, inner products, running means, at any scale and over any mesh."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.leaves import (
    SMALL,
    as_matrix,
    at_least_single,
    contract,
    is_inexact,
    is_small,
    join,
    map_parts,
    parts,
    per_row,
    shapes,
    times,
    widest,
)
from mtlgrad_jax.ground.members import rarely
from mtlgrad_jax.ground.meshes import AxisName, all_of_pieces, check_axes, largest_of_pieces, sum_of_pieces
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two

PyTree = Any


def row_lengths(leaves: list[jax.Array], exponents: jax.Array, axis_name: AxisName) -> tuple[jax.Array, jax.Array]:
    """Measure every row of J in its own power of two.

    Ordinary gradients are read once, in the units of the caller, in which a square that underflows does not
    count beside one. Only if a square overflows they are read again, each row in units of its largest entry.

    ‖gᵢ‖ = 2^kᵢ · lengthᵢ

    Args:
      leaves: Floating or complex, `(T, *param_shape)`.
      exponents: The unit that matters to the caller, int32, shape `(T,)`.
      axis_name: Mesh axes to sum over, those of a leaf that is split over them.

    Returns:
      The lengths, shape `(T,)`, float32 or float64, and k, int32, shape `(T,)`. The length of a row that is
      not finite is not finite; no other is. One far below its unit may be zero.

    Raises:
      ValueError: If leaves differ over a mesh axis that `axis_name` does not name.
    """
    check_axes(leaves, axis_name)
    dtype = widest(leaves)
    squares = _squared_lengths(leaves, exponents, dtype, axis_name)
    none = jnp.zeros_like(squares, dtype=jnp.int32)  # varies over a mesh as the squares do

    def measure_again(squares):
        largest = largest_per_row(leaves, dtype, axis_name)
        own = exponent_of(jnp.where(jnp.isfinite(largest), largest, 0))
        return _squared_lengths(leaves, own, dtype, axis_name), own + none

    def keep(squares):
        return squares, exponents + none

    squares, exponents = rarely(jnp.any(~jnp.isfinite(squares)), measure_again, keep, squares)
    return jnp.sqrt(squares), exponents


def largest_per_row(leaves: list[jax.Array], dtype: jnp.dtype, axis_name: AxisName) -> jax.Array:
    """Return the largest magnitude of a real or imaginary part in every row, shape `(T,)`."""
    peaks = [
        jnp.max(jnp.abs(part), axis=tuple(range(1, part.ndim)), initial=0).astype(dtype)
        for leaf in leaves
        for part in parts(leaf)
    ]
    return largest_of_pieces(peaks, axis_name)


def _squared_lengths(leaves, exponents, dtype, axis_name):
    """Return ‖2^−kᵢ gᵢ‖² for every row."""

    def squares(part):
        unit = scale_by_power_of_two(part.astype(dtype), -per_row(exponents, part))
        return jnp.sum(unit * unit, axis=tuple(range(1, unit.ndim)))

    return sum_of_pieces([squares(part) for leaf in leaves for part in parts(leaf)], axis_name)


def rows_are_finite(task_grads: PyTree, *, axis_name: AxisName = None) -> jax.Array:
    """Tell for every task whether its gradient is finite, booleans of shape `(T,)`."""
    leaves = [leaf for leaf in jax.tree.leaves(task_grads) if is_inexact(leaf)]
    check_axes(leaves, axis_name)
    flags = [jnp.all(jnp.isfinite(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in _with_small_ones_joined(leaves)]
    return all_of_pieces(flags, axis_name)


def _with_small_ones_joined(leaves):
    """Return fewer leaves with the same rows, where a lone device holds them: XLA compiles each reader of each leaf."""
    if jax.device_count() > 1:
        return leaves
    bundles = join([as_matrix(leaf) for leaf in leaves if is_small(leaf)], SMALL)
    joined = [bundle[0] if len(bundle) == 1 else lax.concatenate(bundle, 1) for bundle in bundles]
    return [leaf for leaf in leaves if not is_small(leaf)] + joined


def inner_products(task_grads: PyTree, direction: PyTree, *, axis_name: AxisName = None) -> jax.Array:
    """Return Re⟨gᵢ, u⟩ for every task, shape `(T,)`."""
    return cross_products(task_grads, jax.tree.map(lambda leaf: leaf[None], direction), axis_name=axis_name)[:, 0]


def cross_products(task_grads: PyTree, others: PyTree, *, axis_name: AxisName = None) -> jax.Array:
    """Return Re⟨gᵢ, hⱼ⟩ of two stacks of the same structure, shape `(T, S)`."""
    pairs = [
        (left, right)
        for left, right in zip(jax.tree.leaves(task_grads), jax.tree.leaves(others), strict=True)
        if is_inexact(left)
    ]

    def product(left, right):
        dtype = left.dtype if left.dtype == right.dtype else at_least_single(left.dtype)
        return contract(left.astype(dtype), right.astype(dtype), 1)

    products = [product(left, right) for left, right in pairs]
    dtype = widest(products)
    return sum_of_pieces([part.astype(dtype) for part in products], axis_name)


def check_update(updates: PyTree, task_grads: PyTree, advice: str = "") -> None:
    """Explain that what became of stacked task gradients is not one update like the parameters.

    Args:
      updates: Of the transformation inside.
      task_grads: Leaves `(T, *param_shape)` that it was given.
      advice: What else may have gone wrong.

    Raises:
      ValueError: If the trees differ, or a leaf does not have the shape of its parameter.
    """
    same = jax.tree.structure(updates) == jax.tree.structure(task_grads)
    pairs = list(zip(jax.tree.leaves(updates), jax.tree.leaves(task_grads), strict=True)) if same else []
    pairs = [(jnp.shape(one), jnp.shape(rows)) for one, rows in pairs if is_inexact(rows)]
    if same and all(one == rows[1:] for one, rows in pairs):
        return
    kept = [one == rows for one, rows in pairs]
    if any(kept) and not all(kept):
        advice = "; some leaves kept their task axis: freeze them with mtl.freeze() in place of optax.set_to_zero()"
    raise ValueError(
        "expected a transformation from stacked task gradients to one update like the parameters, got "
        f"{shapes(updates)} from {shapes(task_grads)}; start it with an aggregation such as mtl.mgda(){advice}."
    )


def zeros_like_rows(params: PyTree, num_tasks: int | None = None) -> PyTree:
    """Return zeros shaped like the parameters, or like their stacked gradients, in float32 or better."""
    leading = () if num_tasks is None else (num_tasks,)

    def zeros(leaf):
        wide = at_least_single(jnp.result_type(leaf)) if is_inexact(leaf) else jnp.float32
        return jnp.zeros_like(leaf, dtype=wide, shape=(*leading, *jnp.shape(leaf)))

    return jax.tree.map(zeros, params)


def move_towards(memory: PyTree, rows: PyTree, share: jax.Array | float) -> PyTree:
    """Return (1 − share)·memory + share·rows leaf by leaf, with one share or one per row; integer leaves stay zero."""

    def move(old, new):
        own = jnp.asarray(share)
        own = per_row(own, old) if own.ndim else own
        return old + times(own, new.astype(old.dtype) - old) if is_inexact(new) else old

    return jax.tree.map(move, memory, rows)


def scale_tree(tree: PyTree, exponent: jax.Array) -> PyTree:
    """Multiply floating leaves by a power of two."""

    def scale(part):
        return scale_by_power_of_two(part.astype(at_least_single(part.dtype)), exponent).astype(part.dtype)

    return jax.tree.map(lambda leaf: map_parts(scale, leaf) if is_inexact(leaf) else leaf, tree)
