"""No task is hurt by the step that is taken: the last thing that happens to an optimiser's update."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtlgrad_jax.ground.leaves import is_inexact
from mtlgrad_jax.ground.meshes import split_axes
from mtlgrad_jax.ground.rows import check_update
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.transforms._metric import MetricName, check_metric, metric_of
from mtlgrad_jax.transforms._projection import Downhill, Margins, project, project_rows
from mtlgrad_jax.transforms.accumulate import AccumulateState
from mtlgrad_jax.transforms.freeze import FreezeState
from mtlgrad_jax.typing import Jacobian, PerTask, PyTree, StepRecord

NOT_INSIDE = (AccumulateState, FreezeState, optax.MultiStepsState)


class GuardState(NamedTuple):
    """The state of the guarded optimiser, and what the last step does to the tasks."""

    inner: PyTree
    step: StepRecord | tuple[()]  # without `num_tasks` ()


def guard(
    optimizer: optax.GradientTransformation,
    num_tasks: int | None = None,
    *,
    metric: MetricName | Callable[[PyTree], PyTree] = "euclidean",
    protected: Sequence[int] | Sequence[bool] | jax.Array | np.ndarray | None = None,
    progress: float = 0.0,
    slack: PerTask = 0.0,
    axis_name: str | tuple[str, ...] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Run an optimiser and project its update onto what hurts no protected task.

    `mgda()` promises ⟨gᵢ,u⟩ ≥ 0 of its direction u. Behind momentum, Adam, weight decay or a schedule with memory
    the step is another vector, to which nothing is promised; this wraps the whole of them and makes the promise of
    the step itself. It is the program of `primary_aux` with the step as the primary. To first order the step then
    raises no protected loss on the batch that it was computed from.

    min ½‖Δ′ − Δ‖²_{D⁻¹}  s.t. ⟨gᵢ,Δ′⟩ ≥ (cκ − δᵢ)‖gᵢ‖‖Δ‖,  i protected;   Δ = −update

    Args:
      optimizer: Takes stacked task gradients, all of it: `optax.chain(mtl.mgda(), optax.adamw(schedule))`. Its
        memory stays what it saw. `accumulate`, `optax.lookahead` and parameters that are frozen go outside.
      num_tasks: T; if given, T is checked and the state keeps a `StepRecord`.
      metric: In which the step is changed as little as possible, D: `"euclidean"`, all directions alike;
        `"optimizer"`, 1/√ν with the second moment found in the optimiser's state (`optax.tree.get(state, "nu")`),
        so that directions in which it takes large steps are changed first; or a function from the optimiser's state
        to a tree of non-negative numbers like the parameters.
      protected: Which tasks: their numbers, or T booleans; all by default.
      progress: c, from 0 to 1: every protected loss falls at least c times as fast as along the best common
        direction of the same length, whose worst cosine is κ: a share that all can have at once, where shares of
        what Δ itself gave to each may contradict each other.
      slack: δ, a number or one per task: by how much a loss may rise, relative to ‖gᵢ‖‖Δ‖.
      axis_name: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients with a `GuardState`. The update is that of `optimizer` to
      the last bit where no protected task objects, where it is not finite, and for tasks whose gradient is not
      finite, which protect nothing. `tx.update(..., present=...)`, T booleans, leaves tasks out of one step; it
      reaches `optimizer` too, as all other extra arguments do. Where gradients oppose each other so closely that
      floating point finds no step that keeps the promise, the step is zero.

    Raises:
      ValueError: If `metric` is unknown, or `optimizer` steps once for several updates or freezes parameters (which a
        function as metric may keep in place, by zeros); in `update`, if the task axis
        is wrong, `protected` or `present` do not fit T, the state has no second moment, or `optimizer` returns
        something else than one update like the parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> chain = optax.chain(mtl.mgda(), optax.sgd(0.5, momentum=0.5))
      >>> params = jnp.zeros(2)
      >>> for tx in (chain, mtl.guard(chain)):
      ...     _, state = tx.update(jnp.array([[4.0, 0.0], [4.0, 0.0]]), tx.init(params), params)
      ...     updates, _ = tx.update(jnp.array([[-1.0, 0.0], [0.0, 1.0]]), state, params)
      ...     print([round(float(entry), 2) + 0.0 for entry in updates])
      [-0.75, -0.25]
      [0.0, -0.25]

    References:
      Su, scientific-spaces 8896 (3) and 8907 (1), whose condition is on the increment Δθ.
    """
    check_metric(metric)
    optimizer = optax.with_extra_args_support(optimizer)
    margins = Margins(progress, slack)

    def init(params):
        inner = optimizer.init(params)
        _check_state(inner, metric)
        return GuardState(inner, () if num_tasks is None else _empty_record(num_tasks, params))

    def update(updates, state, params=None, *, present=None, **extra_args):
        actual = stacked.count_tasks(updates, expected=num_tasks, params=params)
        extras = extra_args if present is None else dict(extra_args, present=present)
        increments, inner = optimizer.update(updates, state.inner, params, **extras)
        check_update(increments, updates, ", and put what changes the tree, such as optax.lookahead, outside guard")
        taken, record = project_rows(
            updates,
            increments,
            _kept(protected, present, actual),
            margins=margins,
            metric=metric_of(metric, inner, increments, axis_name),
            axis_name=axis_name,
            descends=True,
        )
        if num_tasks is not None:
            record = jax.tree.map(lambda new, old: new.astype(old.dtype), record, state.step)
        return taken, GuardState(inner, () if num_tasks is None else record)

    return optax.GradientTransformationExtraArgs(init, update)


def guard_step(
    jac: Jacobian,
    updates: PyTree,
    state: PyTree = (),
    *,
    metric: MetricName | Callable[[PyTree], PyTree] = "euclidean",
    protected: Sequence[int] | Sequence[bool] | jax.Array | np.ndarray | None = None,
    present: jax.Array | None = None,
    progress: float = 0.0,
    slack: PerTask = 0.0,
) -> tuple[PyTree, StepRecord]:
    """Project an optimiser's update onto what hurts no protected task, whatever way J is held.

    For a loop of one's own, where gradients are never stacked: direction, own optimiser, guarded step. It costs
    `jac.scaled_gram()`, one `jac.push`, and where a task objects one `jac.combine`; where little of the step is left,
    which cancellation makes inexact, one more `push`.

    Args:
      jac: A `typing.Jacobian`. One at a shared representation is taken at its parameters, where its Gram matrix
        costs a sweep through the encoder for every task.
      updates: What the optimiser returned, like the parameters.
      state: The optimiser's state, for a metric made of it.
      metric: See `guard`. One that is not Euclidean costs two sweeps for every task if one objects.
      protected: See `guard`.
      present: T booleans, the tasks that take part in this step; all by default.
      progress: See `guard`.
      slack: See `guard`.

    Returns:
      The updates to apply, and a `StepRecord`.

    Raises:
      ValueError: If `metric` is unknown, the state has no second moment, or `protected` or `present` do not fit T.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> losses_fn = lambda params: jnp.stack([jnp.sum(params), params[0] ** 2])
      >>> losses, jac = mtl.jacobians.matrix_free.linearize(losses_fn, jnp.array([1.0, 0.0]))
      >>> updates, record = mtl.guard_step(jac, jnp.array([0.5, -1.0]))
      >>> updates, record.multipliers
      (Array([ 0., -1.], dtype=float32), Array([0.  , 0.25], dtype=float32))
    """
    check_metric(metric)
    jac = getattr(jac, "at_parameters", lambda: jac)()
    gram, log2_scale = jac.scaled_gram()
    axis_name = split_axes([leaf for leaf in jax.tree.leaves(updates) if is_inexact(leaf)], gram)
    kept = _kept(protected, present, gram.shape[0])
    chosen = metric_of(metric, state, updates, axis_name)
    margins = Margins(progress, slack)
    options = {"margins": margins, "metric": chosen, "axis_name": axis_name}
    return project(Downhill(jac), gram, log2_scale, updates, kept, **options)


def _kept(protected, present, num_tasks):
    """Return which tasks may not be hurt, shape `(T,)`."""
    kept = jnp.ones(num_tasks, bool) if protected is None else _mask(protected, num_tasks)
    if present is None:
        return kept
    if jnp.shape(present) != (num_tasks,):
        raise ValueError(f"expected present of shape ({num_tasks},), one boolean per task, got {jnp.shape(present)}.")
    return kept & jnp.asarray(present, bool)


def _mask(protected, num_tasks):
    if not hasattr(protected, "dtype") and all(isinstance(entry, bool) for entry in protected) and len(protected):
        protected = np.array(protected)
    if hasattr(protected, "dtype"):
        if protected.dtype == bool and protected.shape == (num_tasks,):
            return jnp.asarray(protected)
    elif all(-num_tasks <= number < num_tasks for number in protected):
        numbers = [number % num_tasks for number in protected]
        return jnp.array([number in numbers for number in range(num_tasks)])
    raise ValueError(
        f"expected protected to hold the numbers of some of {num_tasks} tasks, or {num_tasks} booleans, "
        f"got {protected!r}."
    )


def _check_state(inner, metric):
    """Refuse what takes one step for several updates, whose last rows say nothing about it, and what must not move."""
    parts = jax.tree.leaves(inner, is_leaf=lambda node: isinstance(node, NOT_INSIDE))
    for part in parts:
        if isinstance(part, AccumulateState):
            raise ValueError(
                "expected an optimizer that steps at every update, got mtl.accumulate, whose step rests on rows that "
                "guard never sees; put it outside: mtl.accumulate(mtl.guard(...), every_k, num_tasks)."
            )
        if isinstance(part, FreezeState) and not callable(metric):
            raise ValueError(
                "expected an optimizer that moves all its parameters, got mtl.freeze, whose parameters would move "
                'too; put it outside: optax.partition({"train": mtl.guard(...), "freeze": mtl.freeze()}, labels).'
            )
        if isinstance(part, optax.MultiStepsState):
            raise ValueError(
                "expected an optimizer that steps at every update, got optax.MultiSteps, whose step rests on rows that "
                "guard never sees; use mtl.accumulate(mtl.guard(...), every_k, num_tasks)."
            )


def _empty_record(num_tasks, params):
    wide = any(jnp.result_type(leaf) in (jnp.float64, jnp.complex128) for leaf in jax.tree.leaves(params))
    dtype = jnp.float64 if wide else jnp.float32
    rows = jnp.zeros(num_tasks, dtype)
    return StepRecord(rows, jnp.copy(rows), jnp.copy(rows), jnp.full((), jnp.finfo(dtype).max, dtype))
