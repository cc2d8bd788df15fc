"""Any method as an Optax transformation of stacked task gradients, with a record of its last step."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax import step
from mtlgrad_jax.ground.leaves import shapes
from mtlgrad_jax.jacobians.stacked import Stacked, count_tasks
from mtlgrad_jax.solvers import certificates
from mtlgrad_jax.typing import AxisName, Method, Nonfinite, PyTree, RowMethod, StatefulWeighting, Weighting

try:  # lets one object be chained and be used in optax.experimental.aggregating.process
    from optax.experimental import aggregating
except ImportError:
    Aggregator = optax.GradientTransformationExtraArgs
else:
    Aggregator = aggregating.Aggregator


class AggregateState(NamedTuple):
    """What the last step did, for T = `num_tasks`, and what G says of it in the units of the update itself."""

    gram: jax.Array | None  # (T, T), JJᵀ / 4^log2_scale, rows left out hold the mean of the others; None if not read
    log2_scale: jax.Array  # () int32, zero for ordinary gradients
    weights: jax.Array  # (T,)
    gap: jax.Array | None  # (), its certificate; the largest float before the first step, infinite without an answer
    num_nonfinite: jax.Array  # (T,) int32, steps so far in which the gradient of a present task was not finite
    memory: PyTree  # of the method; () without one

    worst_alignment = certificates.OfRecord.worst_alignment
    relative_gap = certificates.OfRecord.relative_gap


def aggregate(
    weighting: Weighting | StatefulWeighting | RowMethod | Method,
    num_tasks: int | None = None,
    *,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Turn a method into an Optax transformation that maps stacked task gradients to one update.

    It comes first in an `optax.chain`, behind `clip_task_norms` at most; what follows sees an ordinary gradient.

    u = Jᵀw,  w = weighting(JJᵀ)

    Tasks may come and go: `tx.update(task_grads, state, params, present=mask)` with booleans of shape `(T,)`, which may
    be traced, tells which take part in a step. An absent task is out of the hull, the mean and the memory as if T were
    smaller, whatever its row and its loss hold; its weight is zero. A zero row, by contrast, is a task that is present
    and stationary: MGDA stands still there. Where all primaries of a method with roles are absent, nothing is followed
    in their place. `for_tasks` fixes the tasks of a group of parameters, `freeze` leaves parameters out.

    `optax.lbfgs` needs the value and the gradient of one function. Behind an aggregation it is Σ wᵢLᵢ with the weights
    of its record: `value=w @ losses, grad=u, value_fn=lambda params: w @ losses_fn(params)`. What it remembers is the
    curvature of one function, so hold w still while it runs.

    A loss scale must leave the rows before this, `task_grads / scale` in float32, not the update behind it: methods
    whose update has a length of its own (`nash_mtl`, `fairgrad`, `inverse_norm`) would step 1/scale as far.

    Args:
      weighting: A function of a Gram matrix, a `typing.StatefulWeighting`, a `typing.RowMethod`, or a
        `typing.Method` with one of these, its certificate and its groups. Whatever parameter it names besides is
        handed to it from `tx.update(..., name=value)`; `log2_scale` and `present` come from the step itself. One
        that does not name `present` sees, in the place of an absent row, the mean of the others in its group, and
        what it gives to that goes to them.
      num_tasks: T. If given, T is checked, and the state keeps `gram`, `weights`, `gap` and
        `num_nonfinite` of the last step (`AggregateState`; no Gram matrix for a method that does not read it). `gap`
        is in units of the longest gradient and says little about much shorter ones: `state.worst_alignment` and
        `state.relative_gap` are in units of the update itself, and no better than the truth. If not, the state is
        empty and any T goes; a method with memory needs it.
      axis_name: Mesh axis (or axes) over which parameters are split inside `shard_map`.
      nonfinite: What to do when a task's gradient has a NaN or an infinity. `"propagate"` lets it through;
        `"skip"` makes the update zero and leaves the method's memory alone; `"drop_task"` leaves the task out
        of this step, as if it were absent, also where only its loss is not finite (all out: zero update, memory left
        alone).

    Returns:
      An `optax.GradientTransformationExtraArgs` whose `update` takes leaves `(T, *param_shape)` and returns
      leaves `(*param_shape)` of the same dtype.

    Raises:
      ValueError: If `nonfinite` is unknown, `num_tasks` is not a positive int, or is missing for a method with
        memory; in `update`, if the task axis is missing or wrong, or the state is that of another T.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> def shortest(gram):
      ...     return (jnp.arange(gram.shape[0]) == jnp.argmin(jnp.diagonal(gram))).astype(gram.dtype)
      >>> tx = optax.chain(mtl.aggregate(shortest), optax.sgd(1.0))
      >>> params = jnp.zeros(2)
      >>> updates, _ = tx.update(jnp.array([[3.0, 0.0], [0.0, 2.0]]), tx.init(params), params)
      >>> updates
      Array([-0., -2.], dtype=float32)
    """
    method = step.ready(weighting)
    check_options(method.needs_num_tasks, num_tasks, nonfinite)

    def init(params) -> PyTree:
        memory = method.init(num_tasks, params)
        return (
            (memory or optax.EmptyState())
            if num_tasks is None
            else empty_record(num_tasks, params, memory, method.reads_gram)
        )

    def update(updates, state, params=None, **extra_args) -> tuple[PyTree, PyTree]:
        count_tasks(updates, expected=num_tasks, params=params)
        check_state(state, num_tasks)
        check_line_search(updates, extra_args)
        memory = state if num_tasks is None else state.memory
        taken = step.take(method, Stacked(updates, axis_name), memory, nonfinite=nonfinite, **extra_args)
        return taken.update, taken.memory if num_tasks is None else record(state, taken)

    return Aggregator(init, update)


def check_options(needs_num_tasks: bool, num_tasks: int | None, nonfinite: str) -> None:
    """Raise a ValueError for a wrong policy, or a wrong or missing number of tasks."""
    if nonfinite not in step.POLICIES:
        raise ValueError(f"expected nonfinite to be one of {', '.join(step.POLICIES)}, got {nonfinite!r}.")
    if num_tasks is None:
        if needs_num_tasks:
            raise ValueError("expected num_tasks for a method that keeps state, got None; pass the number of tasks.")
    elif not isinstance(num_tasks, int) or num_tasks < 1:
        raise ValueError(
            f"expected num_tasks to be a positive int, got {num_tasks!r}; "
            "with optax.inject_hyperparams, list it in static_args."
        )


def check_state(state: PyTree, num_tasks: int | None) -> None:
    """Raise a ValueError for a state that is not the record of this number of tasks."""
    recorded = getattr(state, "weights", None)
    if num_tasks is not None and (recorded is None or jnp.shape(recorded) != (num_tasks,)):
        found = type(state).__name__ if recorded is None else f"one for {jnp.shape(recorded)[0]} tasks"
        raise ValueError(
            f"expected a state for num_tasks={num_tasks}, got {found}; call init of the transformation that is updated."
        )


def check_line_search(updates: PyTree, extra_args: dict[str, PyTree]) -> None:
    """Raise a ValueError for stacked gradients that are meant for L-BFGS, which compares those of one function."""
    if "grad" in extra_args and shapes(extra_args["grad"]) == shapes(updates):
        raise ValueError(
            "expected grad like the parameters beside value and value_fn, got stacked task gradients; give optax.lbfgs "
            "the value and the gradient of one sum of losses, value=w @ losses and grad=u (docstring of mtl.aggregate)."
        )


def empty_record(num_tasks: int, params: PyTree, memory: PyTree, reads_gram: bool = True) -> AggregateState:
    """Return the state before the first step; it makes no use of values, only of dtypes."""
    wide = any(jnp.result_type(leaf) in (jnp.float64, jnp.complex128) for leaf in jax.tree.leaves(params))
    dtype = jnp.float64 if wide else jnp.float32
    return AggregateState(
        gram=jnp.zeros((num_tasks, num_tasks), dtype) if reads_gram else None,
        log2_scale=jnp.zeros((), jnp.int32),
        weights=jnp.zeros(num_tasks, dtype),
        gap=jnp.full((), jnp.finfo(dtype).max, dtype) if reads_gram else None,
        num_nonfinite=jnp.zeros(num_tasks, jnp.int32),
        memory=memory,
    )


def record(state: AggregateState, taken: step.Taken) -> AggregateState:
    """Return the state after a step, in the dtypes of the one before."""
    return AggregateState(
        gram=None if taken.gram is None else taken.gram.astype(state.weights.dtype),
        log2_scale=taken.log2_scale,
        weights=taken.weights.astype(state.weights.dtype),
        gap=None if taken.gap is None else taken.gap.astype(state.weights.dtype),
        num_nonfinite=state.num_nonfinite + (~taken.finite).astype(jnp.int32),
        memory=taken.memory,
    )
