"""The step nearest to a given one that hurts no protected task, for any way to hold J.

min ½‖Δ′ − Δ‖²_{D⁻¹}   s.t. ⟨gᵢ,Δ′⟩ ≥ bᵢ;   Δ′ = Δ + DJᵀx,   x = argmin_{x ≥ 0} ½xᵀ(JDJᵀ)x + (JΔ − b)ᵀx
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtlgrad_jax.ground.grams import dot, normalize_rows, reciprocal, row_norms
from mtlgrad_jax.ground.leaves import as_matrix, cast_like, contract, is_inexact, map_parts, widest
from mtlgrad_jax.ground.members import changed_if
from mtlgrad_jax.ground.meshes import AxisName, sum_of_pieces
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two
from mtlgrad_jax.ground.rows import largest_per_row, scale_tree
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.solvers import min_norm, nnls
from mtlgrad_jax.transforms._metric import Euclidean, Metric
from mtlgrad_jax.transforms._rows_over_mesh import RowsOverMesh, widen
from mtlgrad_jax.typing import Gram, PyTree, StepRecord, Weights

MAX_PROJECTIONS = 5
TOLERANCE = 8  # a cosine in rounding units: an inner product of long vectors is not known better
RESOLUTION = 64  # the same, in units of the coarsest leaf: what the repetitions must have reached
NEAR = 4  # terms so much longer than their sum leave it exact to a few rounding units
RIDGE = 4  # on the diagonal, in rounding units: repetitions converge although G is rounded


class Margins(NamedTuple):
    """What is asked of ⟨gᵢ,Δ′⟩ in place of zero, see `guard`."""

    progress: jax.Array | float = 0.0
    slack: Any = 0.0  # a number or (T,)


class Downhill(NamedTuple):
    """−J: an update is added to the parameters, and to turn it around would be a pass over them."""

    jac: Any

    def combine(self, weights: Weights) -> PyTree:
        """Return −Jᵀw."""
        return self.jac.combine(-weights)

    def push(self, direction: PyTree) -> jax.Array:
        """Return −Jv."""
        return -self.jac.push(direction)

    def __getattr__(self, name: str) -> Any:
        """Return what has no sign, such as `gram_in`."""
        return getattr(self.jac, name)


HURT_NOBODY = Margins()
EUCLIDEAN = Euclidean()


class _Projected(NamedTuple):
    """A step on its way to one that hurts nobody."""

    step: PyTree  # in float32 or better
    measured: "_Measured"
    multipliers: jax.Array  # (T,)
    count: jax.Array  # () int32


class _Measured(NamedTuple):
    """A step 2ᵐΔ against J = 2ᵏJ̃."""

    products: jax.Array  # (T,), J̃Δ
    size: jax.Array  # (), ‖Δ‖
    exponent: jax.Array  # () int32, m


def project(
    jac: Any,
    gram: Gram,
    log2_scale: jax.Array,
    step: PyTree,
    kept: jax.Array,
    *,
    margins: Margins = HURT_NOBODY,
    metric: Metric = EUCLIDEAN,
    axis_name: AxisName = None,
) -> tuple[PyTree, StepRecord]:
    """Change a step as little as it takes to hurt no task that is kept.

    Where rounding left something of a conflict, the result is projected once more: the second correction is as
    exact relative to what was left as the first was to the step. Where nothing that floating point can tell from
    standing still hurts no task, the step is zero.

    Args:
      jac: Answers `push` and `combine` as a `typing.Jacobian` does.
      gram: G of 2⁻ᵏJ.
      log2_scale: k.
      step: Δ, an ascent direction, like the parameters.
      kept: Boolean, shape `(T,)`; a row that is not finite is not kept anyway.
      margins: b.
      metric: D.
      axis_name: Mesh axes over which leaves of the step are split.

    Returns:
      Δ′, the very Δ if no task objects or Δ is not finite, and the record.
    """
    finite = jnp.isfinite(jnp.diagonal(gram))
    gram = jnp.where(finite[:, None] & finite[None, :], gram, 0)
    lengths = row_norms(gram)
    before = _measure(jac, step, lengths, log2_scale, axis_name)
    kept = kept & finite
    known = jnp.isfinite(before.size) & jnp.all(jnp.isfinite(jnp.where(kept, before.products, 0)))
    kept = kept & known
    bounds = _bounds(gram, lengths, before.size, kept, margins)

    def change(operand):
        step, before, _ = operand
        quadratic = jnp.where(kept[:, None] & kept[None, :], metric.gram(jac, gram, log2_scale), 0)
        if kept.shape[0] > 1:
            quadratic = quadratic + RIDGE * jnp.finfo(gram.dtype).eps * _diagonal(quadratic)
        return _descend(jac, step, before, quadratic, bounds, lengths, log2_scale, kept, metric, axis_name)

    conflict = _deepest(before, bounds, lengths, before.size, kept) > TOLERANCE * jnp.finfo(gram.dtype).eps
    step, after, multipliers = changed_if(conflict, change, (step, before, 0 * before.products))
    record = StepRecord(
        cosines_before=_cosines(before, lengths),
        cosines_after=_cosines(after, lengths),
        multipliers=scale_by_power_of_two(multipliers, before.exponent - log2_scale),
        certificate=jnp.where(known, jnp.maximum(_deepest(after, bounds, lengths, before.size, kept), 0), jnp.inf),
    )
    return step, record


def project_rows(
    task_grads: PyTree,
    step: PyTree,
    kept: jax.Array,
    *,
    margins: Margins = HURT_NOBODY,
    metric: Metric = EUCLIDEAN,
    axis_name: AxisName = None,
    descends: bool = False,
) -> tuple[PyTree, StepRecord]:
    """Do as `project` for stacked gradients; a Gram matrix that the method inside computes too is computed once.

    On a lone device, where no leaf can be sharded, the leaves become matrices before the branches that read them,
    as for the Gram matrix: in a branch XLA would copy leaves that lie transposed once more.

    Args:
      task_grads: Leaves `(T, *param_shape)`.
      step: As in `project`.
      kept: As in `project`.
      margins: As in `project`.
      metric: As in `project`.
      axis_name: As in `project`.
      descends: Whether the step is −Δ, what `optax.apply_updates` adds.

    Returns:
      As `project`.
    """
    gram, log2_scale = stacked.scaled_gram(task_grads, axis_name=axis_name)
    leaves, treedef = jax.tree.flatten(step)
    rows = jax.tree.leaves(task_grads)
    flatten = (lambda leaf: leaf.reshape(-1)) if jax.device_count() == 1 else (lambda leaf: leaf)
    if jax.device_count() == 1:
        rows = [as_matrix(leaf) for leaf in rows]
    jac = RowsOverMesh(rows, jnp.isfinite(jnp.diagonal(gram)), axis_name)
    jac = Downhill(jac) if descends else jac
    options = {"margins": margins, "metric": metric.of_leaves(flatten), "axis_name": axis_name}
    # Without the barrier XLA repeats the end of the optimiser for each that reads the step.
    step = [lax.optimization_barrier(flatten(leaf)) for leaf in leaves]
    taken, record = project(jac, gram, log2_scale, step, kept, **options)
    return treedef.unflatten([new.reshape(leaf.shape) for new, leaf in zip(taken, leaves, strict=True)]), record


def _descend(jac, step, before, quadratic, bounds, lengths, log2_scale, kept, metric, axis_name):
    """Project until the deepest violation is rounding, relative to what is left of the step."""
    eps = jnp.finfo(lengths.dtype).eps

    def deepest(measured):
        return _deepest(measured, bounds, lengths, measured.size, kept)

    def is_unfinished(state):
        return (deepest(state.measured) > TOLERANCE * eps) & (state.count < MAX_PROJECTIONS)

    def is_unresolved(state):
        resolved = deepest(state.measured) <= RESOLUTION * _coarsest(step)
        rounding = TOLERANCE * eps * before.size  # of Δ, should nothing else be left
        return ~resolved | (state.measured.size <= rounding)

    def goes_on(state):
        return is_unfinished(state) | (is_unresolved(state) & (state.count <= MAX_PROJECTIONS))

    def project_once(state):
        give_up = ~is_unfinished(state)  # a last turn, in which the step becomes zero
        wide, measured, multipliers, count = state
        x = nnls(quadratic, jnp.where(kept, measured.products - bounds, 0)).x
        added = metric.apply(jac.combine(scale_by_power_of_two(x, -log2_scale)))
        wide = jax.tree.map(partial(_add, before.exponent, give_up), wide, added)
        after = _measure_after(jac, cast_like(wide, step), measured, quadratic, x, lengths, log2_scale, axis_name)
        after = jax.tree.map(lambda leaf: jnp.where(give_up, jnp.zeros_like(leaf), leaf), after)
        count = jnp.where(give_up, MAX_PROJECTIONS + 1, count + 1)
        return _Projected(wide, after._replace(exponent=before.exponent), multipliers + jnp.where(give_up, 0, x), count)

    start = _Projected(jax.tree.map(widen, step), before, 0 * before.products, 0 * before.exponent)
    end = lax.while_loop(goes_on, project_once, start)
    return cast_like(end.step, step), end.measured, end.multipliers


def _add(exponent, give_up, leaf, added):
    """Return a leaf of the step with its correction, in one pass over what they are made of; zero if that is no use."""
    if not is_inexact(leaf):
        return leaf
    added = map_parts(lambda part: scale_by_power_of_two(part, exponent), added.astype(leaf.dtype))
    return jnp.where(give_up, jnp.zeros_like(leaf), leaf + added)


def _measure_after(jac, step, before, quadratic, x, lengths, log2_scale, axis_name):
    """Return what J says of Δ + DJᵀx: without reading J where the sum is not much shorter than its terms.

    JΔ′ = JΔ + JDJᵀx
    """
    exponent = before.exponent
    in_units = lambda: scale_tree(step, -exponent)
    size = lax.cond(exponent == 0, lambda: _size(step, axis_name), lambda: _size(in_units(), axis_name))
    reach = before.size + jnp.sum(row_norms(quadratic) * x)
    told = before.products + dot(quadratic, x)
    read = lambda: _products(jac, in_units(), log2_scale)
    if _coarsest(step) > jnp.finfo(lengths.dtype).eps:
        return _Measured(read(), size, exponent)
    return _Measured(lax.cond(reach <= NEAR * size, lambda: told, read), size, exponent)


def _coarsest(step):
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(step) if is_inexact(leaf))


def _measure(jac, step, lengths, log2_scale, axis_name):
    """Return what J says of a step, in the units of the caller unless squares or products leave the range."""
    plain = _in_units(jac, step, log2_scale, 0 * log2_scale, axis_name)
    info = jnp.finfo(plain.size.dtype)
    least = jnp.min(jnp.where(lengths > 0, lengths, jnp.inf)) * plain.size
    short = scale_by_power_of_two(least, log2_scale) < info.tiny / info.eps
    short = short | (plain.size < (info.tiny / info.eps) ** 0.5) | (log2_scale != 0)
    long = ~jnp.isfinite(plain.size) | jnp.any(~jnp.isfinite(plain.products) & (lengths > 0))

    def measure_again(step):
        leaves = [leaf[None] for leaf in jax.tree.leaves(step) if is_inexact(leaf)]
        largest = largest_per_row(leaves, widest(leaves), axis_name)[0]
        exponent = exponent_of(jnp.where(jnp.isfinite(largest), largest, 0)) + 0 * log2_scale
        return _in_units(jac, scale_tree(step, -exponent), log2_scale, exponent, axis_name)

    return lax.cond(short | long, measure_again, lambda step: plain, step)


def _in_units(jac, unit_step, log2_scale, exponent, axis_name):
    return _Measured(_products(jac, unit_step, log2_scale), _size(unit_step, axis_name), exponent)


def _products(jac, step, log2_scale):
    return scale_by_power_of_two(jac.push(step), -log2_scale)


def _size(step, axis_name):
    leaves = [leaf for leaf in jax.tree.leaves(step) if is_inexact(leaf)]
    dtype = widest(leaves)
    return jnp.sqrt(sum_of_pieces([contract(leaf, leaf, 0).astype(dtype) for leaf in leaves], axis_name))


def _bounds(gram, lengths, size, kept, margins):
    """Return b, in the units of the measured products."""
    bounds = -jnp.asarray(margins.slack, gram.dtype) * lengths * size
    if isinstance(margins.progress, int | float) and margins.progress == 0:
        return bounds
    best = _best_common_cosine(gram, kept)
    return bounds + jnp.asarray(margins.progress, gram.dtype) * best * lengths * size


def _best_common_cosine(gram, kept):
    """Return max_v minᵢ cos(gᵢ,v) over the tasks that are kept, zero where it cannot be told from that."""
    stand_in = jnp.where(kept, jnp.arange(kept.shape[0]), jnp.argmax(kept))  # a copy changes no hull
    gram = jnp.where(kept[:, None] & kept[None, :], gram, 0)[stand_in][:, stand_in]
    correlation, _ = normalize_rows(gram)
    weights = min_norm(correlation).x
    square = weights @ correlation @ weights
    resolved = square > 8 * gram.shape[0] * jnp.finfo(gram.dtype).eps
    return jnp.where(resolved & jnp.any(kept), jnp.sqrt(jnp.where(resolved, square, 0)), 0)


def _deepest(measured, bounds, lengths, size, kept):
    """Return the deepest violation, relative to ‖gᵢ‖ and a length of the step."""
    short = (bounds - measured.products) * reciprocal(lengths) * reciprocal(size)
    return jnp.max(jnp.where(kept, short, -jnp.inf))


def _cosines(measured, lengths):
    products = jnp.where(jnp.isfinite(measured.products) & (lengths > 0), measured.products, 0)
    size = jnp.where(jnp.isfinite(measured.size), measured.size, 0)
    return jnp.clip(products * reciprocal(lengths) * reciprocal(size), -1, 1)


def _diagonal(matrix):
    return jnp.where(np.eye(matrix.shape[0], dtype=bool), matrix, 0)
