"""From any weighting to an Optax transformation: the one place where J, G, w and u meet."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.solvers.certificates import conflict_gap
from mtlgrad_jax.transforms import _nonfinite
from mtlgrad_jax.typing import PyTree, StatefulWeighting, Weighting, as_stateful

try:  # lets one object be chained and be used in optax.experimental.aggregating.process
    from optax.experimental import aggregating
except ImportError:
    Aggregator = optax.GradientTransformationExtraArgs
else:
    Aggregator = aggregating.Aggregator


class AggregateState(NamedTuple):
    """What the last step did, for T = `num_tasks`."""

    gram: jax.Array  # (T, T), JJᵀ / 4^log2_scale; rows left out hold the mean that stood in for them
    log2_scale: jax.Array  # () int32, zero for ordinary gradients
    weights: jax.Array  # (T,)
    gap: jax.Array  # (), the method's certificate; infinite before the first step and without an answer
    num_nonfinite: jax.Array  # (T,) int32, steps so far in which the gradient of a task was not finite
    memory: PyTree  # of a stateful weighting; () without one


def aggregate(
    weighting: Weighting | StatefulWeighting,
    num_tasks: int | None = None,
    *,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Turn a weighting into an Optax transformation that maps stacked task gradients to one update.

    It comes first in an `optax.chain`, behind `clip_task_norms` at most; what follows sees an ordinary gradient.

    u = Jᵀw,  w = weighting(JJᵀ)

    Args:
      weighting: A function of a Gram matrix, or a `typing.StatefulWeighting`. If it has a keyword-only
        parameter `losses` or `log2_scale`, it is given that (`losses` from `tx.update(..., losses=losses)`).
      num_tasks: T. If given, T is checked, and the state keeps `gram`, `weights`, `gap` and
        `num_nonfinite` of the last step (`AggregateState`). If not, the state is empty and any T goes; a
        stateful weighting needs it.
      axis_name: Mesh axis (or axes) over which parameters are split inside `shard_map`.
      nonfinite: What to do when a task's gradient has a NaN or an infinity. `"propagate"` lets it through;
        `"skip"` makes the update zero and leaves the method's memory alone; `"drop_task"` leaves the row out
        of this step (all rows out: zero update).

    Returns:
      An `optax.GradientTransformationExtraArgs` whose `update` takes leaves `(T, *param_shape)` and returns
      leaves `(*param_shape)` of the same dtype.

    Raises:
      ValueError: If `nonfinite` is unknown, `num_tasks` is not a positive int, or is missing for a stateful
        weighting; in `update`, if the task axis is missing or wrong.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> def shortest(gram):
      ...     return (jnp.arange(gram.shape[0]) == jnp.argmin(jnp.diagonal(gram))).astype(gram.dtype)
      >>> tx = optax.chain(mtl.aggregate(shortest), optax.sgd(1.0))
      >>> params = jnp.zeros(2)
      >>> updates, _ = tx.update(jnp.array([[3.0, 0.0], [0.0, 2.0]]), tx.init(params), params)
      >>> updates
      Array([-0., -2.], dtype=float32)
    """
    return build(weighting, num_tasks, axis_name=axis_name, nonfinite=nonfinite)


def build(
    weighting: Weighting | StatefulWeighting,
    num_tasks: int | None,
    *,
    axis_name: str | tuple[str, ...] | None,
    nonfinite: str,
    certificate: Callable[[jax.Array, jax.Array], jax.Array] = conflict_gap,
    num_primary: int | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Build `aggregate` for a method that knows its certificate and which rows may stand in for which.

    Args:
      weighting: As in `aggregate`.
      num_tasks: As in `aggregate`.
      axis_name: As in `aggregate`.
      nonfinite: As in `aggregate`.
      certificate: A function of gram and weights, recorded as `gap`.
      num_primary: Size of the group of leading rows; all by default.

    Returns:
      The transformation.
    """
    stateful = as_stateful(weighting)
    check_options(stateful, num_tasks, nonfinite)

    def init(params):
        memory = stateful.init(num_tasks)
        return (memory or optax.EmptyState()) if num_tasks is None else empty_record(num_tasks, params, memory)

    def update(updates, state, params=None, **extra_args):
        actual = stacked.count_tasks(updates, expected=num_tasks, params=params)
        gram, log2_scale = stacked.scaled_gram(updates, axis_name=axis_name)
        finite = jnp.isfinite(jnp.diagonal(gram))
        memory = state if num_tasks is None else state.memory
        extras = dict(extra_args, log2_scale=log2_scale)

        if nonfinite == "propagate":
            weights, memory = stateful.update(gram, memory, **extras)
            applied, keep = weights, None
        elif nonfinite == "skip":
            usable = jnp.all(finite)
            gram = jnp.where(usable, gram, 0)
            weights, proposed = stateful.update(gram, memory, **extras)
            memory = jax.tree.map(lambda new, old: jnp.where(usable, new, old), proposed, memory)
            applied, keep = jnp.where(usable, weights, 0), jnp.broadcast_to(usable, finite.shape)
        else:
            rows = _nonfinite.stand_in(finite, actual if num_primary is None else num_primary, gram.dtype)
            gram = _nonfinite.stand_in_gram(gram, finite, rows)
            weights, memory = stateful.update(gram, memory, **extras)
            applied, keep = dot(weights, rows), finite

        if num_tasks is None:
            state = memory
        else:
            state = record(state, gram, log2_scale, applied, certificate(gram, weights), finite, memory)
        return stacked.combine(updates, applied, keep=keep), state

    return Aggregator(init, update)


def check_options(method: StatefulWeighting, num_tasks: int | None, nonfinite: str):
    """Raise a ValueError for a wrong policy, or a wrong or missing number of tasks."""
    if nonfinite not in _nonfinite.POLICIES:
        raise ValueError(f"expected nonfinite to be one of {', '.join(_nonfinite.POLICIES)}, got {nonfinite!r}.")
    if num_tasks is None:
        if method.needs_num_tasks:
            raise ValueError("expected num_tasks for a method that keeps state, got None; pass the number of tasks.")
    elif not isinstance(num_tasks, int) or num_tasks < 1:
        raise ValueError(
            f"expected num_tasks to be a positive int, got {num_tasks!r}; "
            "with optax.inject_hyperparams, list it in static_args."
        )


def empty_record(num_tasks: int, params: PyTree, memory: PyTree) -> AggregateState:
    """Return the state before the first step; it makes no use of values, only of dtypes."""
    wide = any(jnp.result_type(leaf) in (jnp.float64, jnp.complex128) for leaf in jax.tree.leaves(params))
    dtype = jnp.float64 if wide else jnp.float32
    return AggregateState(
        gram=jnp.zeros((num_tasks, num_tasks), dtype),
        log2_scale=jnp.zeros((), jnp.int32),
        weights=jnp.zeros(num_tasks, dtype),
        gap=jnp.full((), jnp.inf, dtype),
        num_nonfinite=jnp.zeros(num_tasks, jnp.int32),
        memory=memory,
    )


def record(state: AggregateState, gram, log2_scale, weights, gap, finite, memory: PyTree) -> AggregateState:
    """Return the state after a step, in the dtypes of the one before."""
    return AggregateState(
        gram=gram.astype(state.gram.dtype),
        log2_scale=log2_scale,
        weights=weights.astype(state.weights.dtype),
        gap=jnp.where(jnp.isfinite(gap), gap, jnp.inf).astype(state.gap.dtype),
        num_nonfinite=state.num_nonfinite + (~finite).astype(jnp.int32),
        memory=memory,
    )
