"""One step, whatever holds J and whatever weighs it: what the method needs → weights → update, with its evidence."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.extras import Picking, picking_extras
from mtlgrad_jax.ground.grams import dot, reciprocal, row_norms
from mtlgrad_jax.ground.leaves import at_least_single, choose, is_inexact, per_row
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.ground.rows import cross_products, inner_products, scale_tree
from mtlgrad_jax.jacobians.stacked import Stacked, count_tasks
from mtlgrad_jax.solvers.certificates import conflict_gap
from mtlgrad_jax.typing import (
    Gram,
    Jacobian,
    Method,
    Nonfinite,
    PyTree,
    RowMethod,
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
    certificate: Callable[[Gram, Weights], jax.Array]
    num_primary: int | None


def ready(method: Weighting | StatefulWeighting | RowMethod | Method) -> Runner:
    """Make any kind of method ready for steps."""
    weighting, certificate, num_primary = method if isinstance(method, Method) else Method(method)
    certificate = certificate or conflict_gap
    if isinstance(weighting, RowMethod):
        update = picking_extras(weighting.update, 2)
        return Runner(weighting.init, update, True, weighting.needs_num_tasks, certificate, num_primary)
    init, update, needs_num_tasks = as_stateful(weighting)
    return Runner(lambda num_tasks, params: init(num_tasks), update, False, needs_num_tasks, certificate, num_primary)


class Taken(NamedTuple):
    """A step: where it goes, and how that came about."""

    update: PyTree  # u, leaves (*param_shape)
    gram: Gram  # (T, T), JJᵀ / 4^log2_scale; rows left out hold the mean that stood in for them
    log2_scale: jax.Array  # () int32, zero for ordinary gradients
    weights: Weights  # (T,), those applied; zero if the update is no combination of the rows
    gap: jax.Array  # (), the method's certificate; infinite without an answer
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
    first, two_batches = jac, _wants_two_batches(method, extras)
    if two_batches:
        jac = _rows_of_the_update(_with_rows(jac), **extras)
    gram, log2_scale = jac.scaled_gram()
    if two_batches:
        extras = extras | {"cross_gram": _cross_gram(first, extras["second_task_grads"], log2_scale)}
    finite = jnp.isfinite(jnp.diagonal(gram))
    attendance = _attendance(method, finite, nonfinite, gram.dtype, **extras)
    if attendance is not None:
        both = attendance.tasks[:, None] & attendance.tasks[None, :]
        gram = dot(dot(attendance.stand_in, jnp.where(both, gram, 0)), attendance.stand_in.T)
        extras = extras | {"present": attendance.tasks}
    run = _on_rows if method.on_rows else _on_gram
    update, weights, gap, proposed = run(method, jac, gram, memory, attendance, extras | {"log2_scale": log2_scale})
    memory = proposed if attendance is None else choose(attendance.usable, proposed, memory)
    answered = jnp.isfinite(gap) & jnp.all(finite if attendance is None else finite | ~attendance.tasks)
    return Taken(update, gram, log2_scale, weights, jnp.where(answered, gap, jnp.inf), finite, memory)


def _on_gram(method, jac, gram, memory, attendance, extras):
    weights, memory = method.update(gram, memory, **extras)
    gap = method.certificate(gram, weights)
    if attendance is None:
        return jac.combine(weights), weights, gap, memory
    weights = jnp.where(attendance.usable, dot(weights, attendance.stand_in), 0)
    return jac.combine(weights, keep=attendance.tasks), weights, gap, memory


def _on_rows(method, jac, gram, memory, attendance, extras):
    jac = _with_rows(jac)
    task_grads, axis_name = jac.task_grads, jac.axis_name
    if attendance is not None:
        task_grads = _fill(task_grads, attendance)
    update, weights, memory = method.update(task_grads, memory, **extras | {"axis_name": axis_name})
    gap = _deepest_conflict(task_grads, update, gram, extras["log2_scale"], axis_name)
    weights = jnp.zeros_like(gram[0]) if weights is None else weights
    if attendance is not None:
        zeros = jax.tree.map(jnp.zeros_like, (update, weights))
        update, weights = choose(attendance.usable, (update, weights), zeros)
    return update, weights, gap, memory


def _attendance(method, finite, nonfinite, dtype, *, present=None, **extras):
    """Return who takes part, or None where all do and nobody asks."""
    del extras  # unused
    if present is not None and jnp.shape(present) != finite.shape:
        raise ValueError(f"expected present of shape {finite.shape}, one boolean per task, got {jnp.shape(present)}.")
    if nonfinite == "propagate" and present is None:
        return None
    invited = jnp.ones_like(finite) if present is None else jnp.asarray(present, bool)
    tasks = invited if nonfinite == "propagate" else invited & finite
    usable = jnp.all(finite | ~invited) if nonfinite == "skip" else jnp.any(tasks)
    return _Attendance(tasks, stand_in(tasks, method.num_primary, dtype), usable)


def stand_in(tasks: jax.Array, num_leading: int | None, dtype: jnp.dtype) -> jax.Array:
    """Return S, the matrix that replaces each missing row by the mean of the rows present in its group.

    The mean of a group lies in its hull and its cone, so methods that depend on these only (mean, MGDA,
    primary_aux, CAGrad, the projections onto the dual cone) see exactly the problem without the row,
    although T is static. The groups are the first `num_leading` rows and the rest. A group with no row
    left stands at zero.

    Args:
      tasks: Boolean, shape `(T,)`, those present.
      num_leading: Size of the first group, None for a single one.
      dtype: Of the result.

    Returns:
      S, shape `(T, T)`.
    """
    num_tasks = tasks.shape[0]
    leading = jnp.arange(num_tasks) < (num_tasks if num_leading is None else num_leading)
    shares = ((leading[:, None] == leading[None, :]) & tasks[None, :]).astype(dtype)
    means = shares / jnp.maximum(jnp.sum(shares, axis=1, keepdims=True), 1)
    return jnp.where(tasks[:, None], jnp.eye(num_tasks, dtype=dtype), means)


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


def _deepest_conflict(task_grads, update, gram, log2_scale, axis_name):
    """Measure max_i (−⟨gᵢ,u⟩)₊ / (‖gᵢ‖·max‖g‖), with u brought into the range of `gram` first."""
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
