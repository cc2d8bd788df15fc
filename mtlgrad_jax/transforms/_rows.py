"""From a method that needs the rows of J to an Optax transformation, with the record and policies of `aggregate`."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mtlgrad_jax._powers_of_two import scale_by_power_of_two
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.jacobians._contraction import at_least_single, contract, map_parts, widest
from mtlgrad_jax.solvers._scaling import reciprocal, row_norms
from mtlgrad_jax.transforms import _nonfinite
from mtlgrad_jax.transforms._aggregate import Aggregator, check_options, empty_record, record
from mtlgrad_jax.typing import PyTree, RowMethod, picking_extras


def build_rows(
    method: RowMethod,
    num_tasks: int | None,
    *,
    axis_name: str | tuple[str, ...] | None,
    nonfinite: str,
    num_primary: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Build an Optax transformation from a method that works on the rows.

    Leaves are handled one by one and keep their sharding. The Gram matrix serves the record and the policies
    only; under jit it is not computed when neither needs it.

    Args:
      method: An `(init, update)` pair, see `typing.RowMethod`.
      num_tasks: As in `aggregate`. The record's `weights` are those on the rows that the method combines,
        zero if its update is no combination of rows; its `gap` is the deepest conflict of the update with the
        task gradients of the step.
      axis_name: As in `aggregate`.
      nonfinite: As in `aggregate`.
      num_primary: Size of the group of leading rows, for `"drop_task"`; all by default.

    Returns:
      The transformation.
    """
    check_options(method, num_tasks, nonfinite)
    advance = picking_extras(method.update)

    def init(params):
        memory = method.init(num_tasks, params)
        return (memory or optax.EmptyState()) if num_tasks is None else empty_record(num_tasks, params, memory)

    def update(updates, state, params=None, **extra_args):
        actual = stacked.count_tasks(updates, expected=num_tasks, params=params)
        gram, log2_scale = stacked.scaled_gram(updates, axis_name=axis_name)
        finite = jnp.isfinite(jnp.diagonal(gram))
        memory = state if num_tasks is None else state.memory

        if nonfinite == "propagate":
            direction, weights, memory = advance(updates, memory, **extra_args)
        else:
            rows = _nonfinite.stand_in(finite, actual if num_primary is None else num_primary, gram.dtype)
            gram = _nonfinite.stand_in_gram(gram, finite, rows)
            updates = _fill(updates, finite, rows)
            direction, weights, proposed = advance(updates, memory, **extra_args)
            usable = jnp.all(finite) if nonfinite == "skip" else jnp.any(finite)
            memory = choose(usable, proposed, memory)
            direction = choose(usable, direction, jax.tree.map(jnp.zeros_like, direction))

        if num_tasks is None:
            state = memory
        else:
            weights = jnp.zeros_like(gram[0]) if weights is None else weights
            gap = _deepest_conflict(updates, direction, gram, log2_scale, axis_name)
            state = record(state, gram, log2_scale, weights, gap, finite, memory)
        return direction, state

    return Aggregator(init, update)


def zeros_like_rows(params: PyTree, num_tasks: int | None = None) -> PyTree:
    """Return zeros shaped like the parameters, or like their stacked gradients, in float32 or better."""
    leading = () if num_tasks is None else (num_tasks,)

    def zeros(leaf):
        dtype = jnp.result_type(leaf)
        wide = at_least_single(dtype) if jnp.issubdtype(dtype, jnp.inexact) else jnp.float32
        return jnp.zeros_like(leaf, dtype=wide, shape=(*leading, *jnp.shape(leaf)))

    return jax.tree.map(zeros, params)


def move_towards(memory: PyTree, rows: PyTree, share: jax.Array | float) -> PyTree:
    """Return (1 − share)·memory + share·rows leaf by leaf; integer leaves carry no gradient and stay zero."""

    def move(old, new):
        if not jnp.issubdtype(new.dtype, jnp.inexact):
            return old
        return old + times(share, new.astype(old.dtype) - old)

    return jax.tree.map(move, memory, rows)


def times(share: jax.Array | float, leaf: jax.Array) -> jax.Array:
    """Multiply a leaf by a real number, a complex one part by part: 0·(∞ + i) has no NaN in its imaginary part."""
    return map_parts(lambda part: jnp.asarray(share, part.dtype) * part, leaf)


def cast_like(tree: PyTree, example: PyTree) -> PyTree:
    """Cast leaves to the dtypes of another tree."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, example)


def choose(condition: jax.Array, tree: PyTree, other: PyTree) -> PyTree:
    """Return one tree or the other, whole."""
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), tree, other)


def inner_products(task_grads: PyTree, direction: PyTree, *, axis_name=None) -> jax.Array:
    """Return Re⟨gᵢ, u⟩ for every task, shape `(T,)`."""
    pairs = zip(jax.tree.leaves(task_grads), jax.tree.leaves(direction), strict=True)

    def product(leaf, other):
        dtype = leaf.dtype if leaf.dtype == other.dtype else at_least_single(leaf.dtype)
        return contract(leaf.astype(dtype), other.astype(dtype)[None], 1)[:, 0]

    products = [product(leaf, other) for leaf, other in pairs if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    dtype = widest(products)
    total = sum(product.astype(dtype) for product in products)
    return total if axis_name is None else lax.psum(total, axis_name)


def scale_tree(tree: PyTree, exponent: jax.Array) -> PyTree:
    """Multiply floating leaves by a power of two."""

    def scale(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        if jnp.iscomplexobj(leaf):
            return lax.complex(scale(leaf.real), scale(leaf.imag))
        wide = leaf.astype(at_least_single(leaf.dtype))
        return scale_by_power_of_two(wide, exponent).astype(leaf.dtype)

    return jax.tree.map(scale, tree)


def _deepest_conflict(task_grads, direction, gram, log2_scale, axis_name):
    """Measure max_i (−⟨gᵢ,u⟩)₊ / (‖gᵢ‖·max‖g‖), with u brought into the range of `gram` first."""
    slope = inner_products(task_grads, scale_tree(direction, -log2_scale), axis_name=axis_name)
    lengths = row_norms(gram)
    slope = scale_by_power_of_two(slope.astype(gram.dtype), -log2_scale) * reciprocal(jnp.max(lengths))
    return jnp.maximum(jnp.max(-slope * reciprocal(lengths)), 0)


def _fill(task_grads, finite, rows):
    """Return SJ, whatever the rows left out hold."""

    def fill(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        known = jnp.where(finite.reshape(finite.shape + (1,) * (leaf.ndim - 1)), leaf, 0)
        wide = known.astype(at_least_single(leaf.dtype))
        filled = jnp.tensordot(rows.astype(wide.dtype), wide, 1, precision=lax.Precision.HIGHEST)
        return filled.astype(leaf.dtype)

    return jax.tree.map(fill, task_grads)
