"""From a method that needs the rows of J to an Optax transformation, with the record and policies of `aggregate`."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mtlgrad_jax.ground.grams import reciprocal, row_norms
from mtlgrad_jax.ground.leaves import at_least_single, choose
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.ground.rows import inner_products, scale_tree
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.transforms import _nonfinite
from mtlgrad_jax.transforms._aggregate import Aggregator, check_options, empty_record, record
from mtlgrad_jax.typing import RowMethod, picking_extras


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
