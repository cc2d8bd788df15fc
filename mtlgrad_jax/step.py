"""One step, whatever holds J and whatever weighs it: what the method needs → weights → update, with its evidence."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.extras import Picking, picking_extras
from mtlgrad_jax.ground.grams import dot, reciprocal, row_norms
from mtlgrad_jax.ground.leaves import at_least_single, choose, is_inexact, per_row
from mtlgrad_jax.ground.members import any_member
from mtlgrad_jax.ground.presence import fill, leave_out, only, only_rows, stand_in
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.ground.rows import cross_products, inner_products, rows_are_finite, scale_tree
from mtlgrad_jax.jacobians.stacked import Stacked, count_tasks
from mtlgrad_jax.solvers.certificates import conflict_gap
from mtlgrad_jax.typing import (
    Gram,
    Jacobian,
    Method,
    Nonfinite,
    PyTree,
    Rest,
    RowMethod,
    Solution,
    StatefulWeighting,
    Weighting,
    Weights,
    as_stateful,
)

POLICIES = ("propagate", "skip", "drop_task")


class Runner(NamedTuple):
    """A method made ready for steps, with one signature for every kind."""

    init: Callable[[int | None, PyTree], PyTree]  # (num_tasks, params) -> memory
    update: Picking  # (G or J, memory, **extras) -> (w, memory) or (u, w, memory)
    on_rows: bool  # it is given J
    needs_num_tasks: bool
    reads_gram: bool
    rest: Callable[..., Rest] | None  # (memory, **extras) -> a step that can be taken without G
    certificate: Picking  # (gram, weights, **evidence) -> gap; `present` if it names it
    num_primary: int | None
    refine: Callable[..., Solution] | None  # (gram, weights, products) -> weights and gap


def ready(method: Weighting | StatefulWeighting | RowMethod | Method) -> Runner:
    """Make any kind of method ready for steps."""
    weighting, certificate, num_primary, refine = method if isinstance(method, Method) else Method(method)
    evidence = (picking_extras(certificate or _deepest_conflict_of, 2), num_primary, refine)
    if isinstance(weighting, RowMethod):
        update = picking_extras(weighting.update, 2)
        return Runner(weighting.init, update, True, weighting.needs_num_tasks, True, None, *evidence)
    init, update, needs_num_tasks, reads_gram, rest = as_stateful(weighting)
    begin = lambda num_tasks, params: init(num_tasks)
    rest = rest and picking_extras(rest, 1)
    return Runner(begin, picking_extras(update, 2), False, needs_num_tasks, reads_gram, rest, *evidence)


class Taken(NamedTuple):
    """A step: where it goes, and how that came about."""

    update: PyTree  # u, leaves (*param_shape)
    gram: Gram | None  # (T, T), JJᵀ / 4^log2_scale; rows left out hold the mean that stood in for them
    log2_scale: jax.Array  # () int32, zero for ordinary gradients
    weights: Weights  # (T,), those applied; zero if the update is no combination of the rows
    gap: jax.Array | None  # (), the method's certificate; infinite without an answer
    finite: jax.Array  # (T,) bool, whether the gradient of a task was finite
    memory: PyTree  # of the method; () without one


class _Attendance(NamedTuple):
    """Who takes part in a step."""

    tasks: jax.Array  # (T,) bool
    stand_in: jax.Array  # (T, T), S: SJ has no missing row, and Sᵀw moves the weights to the rows present
    usable: jax.Array  # () bool, whether there is a step at all


def take(method: Runner, jac: Jacobian, memory: PyTree, *, nonfinite: Nonfinite = "propagate", **extras: Any) -> Taken:
    """Weigh the tasks and combine their gradients.

    u = Jᵀw,  w = weighting(JJᵀ)

    Args:
      method: From `ready`.
      jac: Any way to hold J; a method on rows, or of two batches, needs a `jacobians.stacked.Stacked`.
      memory: Of the method.
      nonfinite: What to do when a task's gradient is not finite, see `aggregate`.
      **extras: Handed to the method if it names them, `losses` for instance. `present`, booleans of shape `(T,)`, tells
        which tasks take part.

    Returns:
      A `Taken`.

    Raises:
      ValueError: If the method needs rows that `jac` does not hold, or as the method says.
    """
    if extras.get("present") is not None:
        extras["present"] = _checked(extras["present"], _num_tasks(jac))
    first, two_batches = jac, _wants_two_batches(method, extras)
    if two_batches:
        jac = _rows_of_the_update(_with_rows(jac), **extras)
    seen = _look(jac, extras) if method.reads_gram and method.rest is None else _glance(jac, extras)
    if two_batches:
        extras = extras | {"cross_gram": _cross_gram(first, extras["second_task_grads"], seen.log2_scale)}
    if method.on_rows:
        return _take_on_rows(method, jac, seen, memory, nonfinite, extras)
    if method.rest is None:
        weighed = _weigh(method, jac, seen, memory, nonfinite, extras)
    else:
        weighed, seen = _weigh_if_due(method, jac, seen, memory, nonfinite, extras)
    attendance = _attendance(method, seen, nonfinite, extras)
    update, weights = _combine(jac, weighed.weights, attendance)
    memory = weighed.memory if attendance is None else choose(attendance.usable, weighed.memory, memory)
    gram, gap = (weighed.gram, _or_infinite(weighed.gap, seen, attendance)) if method.reads_gram else (None, None)
    finite = _finite_or_absent(seen, extras.get("present"))
    return Taken(update, gram, weighed.log2_scale, weights, gap, finite, memory)


class _Seen(NamedTuple):
    """What a step knows of J."""

    gram: Gram  # (T, T), all zero if nobody asks
    log2_scale: jax.Array
    finite: jax.Array  # (T,) bool


class _Weighed(NamedTuple):
    """What the weighting said, and the Gram matrix that it said it of."""

    gram: Gram
    log2_scale: jax.Array
    weights: Weights  # before they move to the tasks that take part
    gap: jax.Array
    memory: PyTree


def _look(jac, extras):
    del extras  # unused
    gram, log2_scale = jac.scaled_gram()
    return _Seen(gram, log2_scale, jnp.isfinite(jnp.diagonal(gram)))


def _glance(jac, extras):
    """Look at what costs no Gram matrix: whether rows at hand, or else the losses, are finite."""
    losses = extras.get("losses")
    if isinstance(jac, Stacked):
        finite = rows_are_finite(jac.task_grads, axis_name=jac.axis_name)
    elif losses is not None:
        finite = jnp.isfinite(losses)
    else:
        raise ValueError("expected losses for a step without a Gram matrix, got none; pass losses=losses.")
    dtype = jnp.float64 if losses is not None and jnp.result_type(losses) == jnp.float64 else jnp.float32
    zero = jnp.where(finite, 0, 0).astype(dtype)  # varies over a mesh as the tasks do
    return _Seen(zero[:, None] + zero[None, :], jnp.sum(zero).astype(jnp.int32), finite)


def _weigh(method, jac, seen, memory, nonfinite, extras):
    attendance, gram = _attendance(method, seen, nonfinite, extras), seen.gram
    if attendance is not None:
        gram, extras = fill(gram, attendance.tasks, attendance.stand_in), extras | _told(attendance, extras)
    weights, memory = method.update(gram, memory, **extras | {"log2_scale": seen.log2_scale})
    if method.refine is None:
        gap = method.certificate(gram, weights, **_evidence(extras))
    else:
        weights, gap, _ = method.refine(gram, weights, _products(jac, attendance, seen.log2_scale))
    return _Weighed(gram, seen.log2_scale, weights, gap, memory)


def _products(jac, attendance, log2_scale):
    """Return B ↦ B·JJᵀ / 4ᵏ, by directions and not by G, for a method that asks more than G knows.

    Directions are held one at a time, but as a stack where rows are.
    """
    jac = jac.rows() if hasattr(jac, "rows") else jac
    if isinstance(jac, Stacked):
        jac = Stacked(jax.tree.map(_wide, jac.task_grads), jac.axis_name)

    def product(weights):
        if attendance is None:
            return slopes_of(jac.combine(weights)).astype(weights.dtype)
        direction = jac.combine(dot(weights, attendance.stand_in), keep=attendance.tasks)
        slopes = slopes_of(direction).astype(weights.dtype)
        return dot(attendance.stand_in, jnp.where(attendance.tasks, slopes, 0))

    def slopes_of(direction):
        return scale_by_power_of_two(jac.push(scale_tree(direction, -log2_scale)), -log2_scale)

    return jax.vmap(product) if isinstance(jac, Stacked) else lambda basis: lax.map(product, basis)


def _wide(leaf):
    return leaf.astype(at_least_single(leaf.dtype)) if is_inexact(leaf) else leaf


def _weigh_if_due(method, jac, glance, memory, nonfinite, extras):
    """Weigh anew where the method says so, and else reuse the weights without looking at J."""
    rest = method.rest(memory, **extras)

    def look():
        seen = _look(jac, extras)
        weighed = _weigh(method, jac, seen, memory, nonfinite, extras)
        return choose(rest.is_due, weighed, _as(weighed, rested)), seen.finite

    def reuse():
        return rested, glance.finite

    gap = method.certificate(rest.gram, rest.weights, **_evidence(extras))
    rested = _Weighed(rest.gram, rest.log2_scale, rest.weights, gap, rest.state)
    weighed, finite = lax.cond(any_member(rest.is_due), look, reuse)
    return weighed, glance._replace(finite=finite)


def _as(example, tree):
    return jax.tree.map(lambda leaf, other: other.astype(leaf.dtype), example, tree)


def _combine(jac, weights, attendance):
    if attendance is None:
        return jac.combine(weights), weights
    weights = jnp.where(attendance.usable, dot(weights, attendance.stand_in), 0)
    return jac.combine(weights, keep=attendance.tasks), weights


def _take_on_rows(method, jac, seen, memory, nonfinite, extras):
    invited, pull = extras.get("present"), None
    if hasattr(jac, "rows") and not method.needs_num_tasks:  # at a representation, of which nothing can be remembered
        extras, pull, jac = extras | {"representation": jac.representation}, jac.pull, jac.rows()
    jac = _with_rows(jac)
    attendance, gram, task_grads = _attendance(method, seen, nonfinite, extras), seen.gram, jac.task_grads
    extras = extras | {"log2_scale": seen.log2_scale, "axis_name": jac.axis_name}
    if attendance is not None:
        gram, task_grads = fill(gram, attendance.tasks, attendance.stand_in), _fill(task_grads, attendance)
        extras = extras | _told(attendance, extras)
    update, weights, proposed = method.update(task_grads, memory, **extras)
    gap = _deepest_conflict(task_grads, update, gram, seen.log2_scale, jac.axis_name, extras.get("present"))
    weights = jnp.zeros_like(gram[0]) if weights is None else weights
    if pull is not None:
        update = pull(update, keep=None if attendance is None else attendance.tasks)
    if attendance is not None:
        before = (*jax.tree.map(jnp.zeros_like, (update, weights)), memory)
        update, weights, proposed = choose(attendance.usable, (update, weights, proposed), before)
    gap, finite = _or_infinite(gap, seen, attendance), _finite_or_absent(seen, invited)
    return Taken(update, gram, seen.log2_scale, weights, gap, finite, proposed)


def _or_infinite(gap, seen, attendance):
    """Return the gap, infinite without an answer and where a task that takes part is broken."""
    sound = seen.finite if attendance is None else seen.finite | ~attendance.tasks
    return jnp.where(jnp.isfinite(gap) & jnp.all(sound), gap, jnp.inf)


def _num_tasks(jac):
    """Return T, which our ways to hold J know and the `typing.Jacobian` of others need not."""
    known = getattr(jac, "num_tasks", None)
    return jax.eval_shape(jac.gram).shape[0] if known is None else known


def _checked(present, num_tasks):
    if jnp.shape(present) != (num_tasks,):
        raise ValueError(f"expected present of shape ({num_tasks},), one boolean per task, got {jnp.shape(present)}.")
    return jnp.asarray(present, bool)


def _attendance(method, seen, nonfinite, extras):
    """Return who takes part, or None where all do and nobody asks."""
    present, finite = extras.get("present"), seen.finite
    if nonfinite == "propagate" and present is None:
        return None
    invited = jnp.ones_like(finite) if present is None else present
    tasks = invited if nonfinite == "propagate" else invited & finite
    if nonfinite == "drop_task" and extras.get("losses") is not None:
        tasks = tasks & jnp.isfinite(extras["losses"])
    usable = jnp.any(tasks) & (jnp.all(finite | ~invited) | (nonfinite != "skip"))
    return _Attendance(tasks, stand_in(tasks, method.num_primary, seen.gram.dtype), usable)


def _told(attendance, extras):
    """Return what a method is told of absent tasks: who is present, and losses in which the mean stands in for them."""
    told, losses = {"present": attendance.tasks}, extras.get("losses")
    if losses is None or jnp.shape(losses) != attendance.tasks.shape:
        return told
    losses = jnp.asarray(losses, attendance.stand_in.dtype)
    known = only(losses, attendance.tasks & jnp.isfinite(losses))
    return told | {"losses": jnp.where(attendance.tasks, losses, dot(attendance.stand_in, known))}


def _evidence(extras):
    """Return who was present, for a certificate that asks."""
    return {"present": extras["present"]} if extras.get("present") is not None else {}


def _finite_or_absent(seen, invited):
    return seen.finite if invited is None else seen.finite | ~invited


def _deepest_conflict_of(gram, weights, *, present=None):
    """The certificate of a method that has none of its own."""
    return conflict_gap(leave_out(gram, present), weights)


def _fill(task_grads, attendance):
    """Return SJ, whatever the rows left out hold."""

    def fill(leaf):
        if not is_inexact(leaf):
            return leaf
        known = jnp.where(per_row(attendance.tasks, leaf), leaf, 0)
        wide = known.astype(at_least_single(leaf.dtype))
        filled = jnp.tensordot(attendance.stand_in.astype(wide.dtype), wide, 1, precision=lax.Precision.HIGHEST)
        return filled.astype(leaf.dtype)

    return jax.tree.map(fill, task_grads)


def _deepest_conflict(task_grads, update, gram, log2_scale, axis_name, present):
    """Measure max_i (−⟨gᵢ,u⟩)₊ / (‖gᵢ‖·max‖g‖), with u brought into the range of `gram` first."""
    task_grads, gram = only_rows(task_grads, present), leave_out(gram, present)
    slope = inner_products(task_grads, scale_tree(update, -log2_scale), axis_name=axis_name)
    lengths = row_norms(gram)
    slope = scale_by_power_of_two(slope.astype(gram.dtype), -log2_scale) * reciprocal(jnp.max(lengths))
    return jnp.maximum(jnp.max(-slope * reciprocal(lengths)), 0)


def _with_rows(jac):
    if isinstance(jac, Stacked):
        return jac
    raise ValueError(
        f"expected stacked task gradients for a method that works on the rows of J, got {type(jac).__name__}, which "
        'does not hold them; pass method="stacked".'
    )


def _wants_two_batches(method, extras):
    """Whether it names J₁J₂ᵀ; one that hands all extras on, as a combinator does, where there is a second batch."""
    update = method.update
    return "cross_gram" in update.named or (update.takes_all and "second_task_grads" in extras)


def _rows_of_the_update(jac, *, second_task_grads=None, third_task_grads=None, **extras):
    """Return ½(J₁ + J₂), or the rows of a third batch."""
    del extras  # unused
    if second_task_grads is None:
        raise ValueError(
            "expected the stacked gradients of a second, independent batch at the same parameters, got none; "
            "pass tx.update(task_grads, state, params, second_task_grads=second_task_grads)."
        )
    first, second = jac.num_tasks, count_tasks(second_task_grads)
    if first != second:
        raise ValueError(f"expected second_task_grads for the same T={first} tasks as task_grads, got T={second}.")
    if third_task_grads is not None:
        return Stacked(third_task_grads, jac.axis_name)
    return Stacked(jax.tree.map(_middle, jac.task_grads, second_task_grads), jac.axis_name)


def _cross_gram(jac, second_task_grads, log2_scale):
    """Return J₁J₂ᵀ / 4ᵏ; ordinary gradients, of k = 0, are read as they are."""

    def products(first, second):
        return cross_products(first, second, axis_name=jac.axis_name)

    def scaled(first, second):
        return products(scale_tree(first, -log2_scale), scale_tree(second, -log2_scale))

    return lax.cond(log2_scale == 0, products, scaled, jac.task_grads, second_task_grads)


def _middle(left, right):
    return (left / 2 + right / 2).astype(left.dtype) if is_inexact(left) else left
