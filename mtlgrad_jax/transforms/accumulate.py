"""Accumulation of task gradients over micro-batches, one mean per task."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.leaves import at_least_single, is_inexact, map_parts, times
from mtlgrad_jax.ground.members import rarely
from mtlgrad_jax.ground.rows import check_update
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.typing import PyTree

Missing = Literal["mean", "zero"]
MISSING = get_args(Missing)


class AccumulateState(NamedTuple):
    """The means so far, and the state of the transformation that waits for them."""

    micro_step: jax.Array  # () int32, micro-batches seen since the last step
    counts: jax.Array  # (T,) examples of each task since the last step
    losses: jax.Array  # (T,) their mean loss, if losses are given
    task_grads: PyTree  # leaves (T, *param_shape), their mean gradient, float32 or better
    inner: PyTree


def accumulate(
    transform: optax.GradientTransformation, every_k: int, num_tasks: int, *, missing: Missing = "mean"
) -> optax.GradientTransformationExtraArgs:
    """Average each task's gradients over `every_k` micro-batches, then take one step.

    Wraps a whole optimiser that starts with an aggregation, as `optax.MultiSteps` wraps one that does not.
    A mean of updates is not the update of the means; and tasks may have different numbers of labels.

    gᵢ = Σₖ nₖᵢ gₖᵢ / Σₖ nₖᵢ

    Args:
      transform: Takes stacked task gradients, for instance `optax.chain(mtl.mgda(), optax.adam(1e-3))`, all
        of it: what is chained behind `accumulate` would see the zero updates in between.
      every_k: Micro-batches per step.
      num_tasks: T.
      missing: What a task without a single example in all `every_k` micro-batches is. `"mean"`: absent, which
        `transform` is told by `present`, see `aggregate`; its row is the mean of the others for a transformation
        that does not ask. `"zero"`: present with a zero gradient, at which MGDA stands still. Without any example
        at all every row is zero.

    Returns:
      An Optax transformation of stacked task gradients. Its update is zero, and the state of `transform` as it
      was, except at every `every_k`-th call. `update` takes two extra arguments: `counts`, shape `(T,)`, the
      number of examples behind each row of this micro-batch (one each by default; a row with none may hold
      anything, NaN too), and `losses`, shape `(T,)`, which reach `transform` as the same weighted means. A task
      that is not `present` (booleans, shape `(T,)`) in a micro-batch has no example there.
      Other extra arguments reach it as given at the last micro-batch.

    Raises:
      ValueError: If `every_k` or `num_tasks` is not a positive int or `missing` is unknown; in `update`, if the
        task axis, `counts` or `losses` have another length than T.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> tx = mtl.accumulate(optax.chain(mtl.mean(), optax.sgd(1.0)), every_k=2, num_tasks=2)
      >>> params = jnp.zeros(1)
      >>> state = tx.init(params)
      >>> first, state = tx.update(jnp.array([[4.0], [1.0]]), state, params, counts=jnp.array([1.0, 5.0]))
      >>> second, state = tx.update(jnp.array([[0.0], [jnp.nan]]), state, params, counts=jnp.array([3.0, 0.0]))
      >>> first, second
      (Array([0.], dtype=float32), Array([-1.], dtype=float32))
    """
    for name, value in (("every_k", every_k), ("num_tasks", num_tasks)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"expected {name} to be a positive int, got {value!r}.")
    if missing not in MISSING:
        raise ValueError(f"expected missing to be one of {', '.join(MISSING)}, got {missing!r}.")
    transform = optax.with_extra_args_support(transform)

    def init(params):
        return AccumulateState(
            micro_step=jnp.zeros((), jnp.int32),
            counts=jnp.zeros(num_tasks, jnp.float32),
            losses=jnp.zeros(num_tasks, jnp.float32),
            task_grads=jax.tree.map(lambda leaf: jnp.zeros((num_tasks, *jnp.shape(leaf)), _wide(leaf)), params),
            inner=transform.init(params),
        )

    def update(updates, state, params=None, *, counts=None, losses=None, present=None, **extra_args):
        stacked.count_tasks(updates, expected=num_tasks, params=params)
        given_counts = counts is not None
        counts = _check_row("counts", jnp.ones(num_tasks) if counts is None else counts, num_tasks)
        if present is not None:
            counts = jnp.where(_check_row("present", present, num_tasks) > 0, counts, 0)
        total = state.counts + counts
        share = jnp.where(total > 0, counts / jnp.where(total > 0, total, 1), 0)
        mean = jax.tree.map(lambda old, new: _average(old, new, share), state.task_grads, updates)
        mean_losses = state.losses
        if losses is not None:
            mean_losses = _average(state.losses, _check_row("losses", losses, num_tasks), share)

        def step(inner):
            rows = jax.tree.map(lambda leaf, given: _fill(leaf, total > 0, missing).astype(given.dtype), mean, updates)
            extras = extra_args if losses is None else dict(extra_args, losses=mean_losses)
            if missing == "mean" and (given_counts or present is not None):
                extras = dict(extras, present=total > 0)
            taken, inner = transform.update(rows, inner, params, **extras)
            check_update(taken, updates)
            return taken, inner

        def wait(inner):
            like = jax.eval_shape(step, inner)[0]
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like), inner

        is_last = state.micro_step + 1 == every_k
        applied, inner = rarely(is_last, step, wait, state.inner)
        kept = AccumulateState(state.micro_step + 1, total, mean_losses, mean, inner)
        restart = jax.tree.map(lambda leaf: jnp.where(is_last, jnp.zeros_like(leaf), leaf), kept._replace(inner=()))
        return applied, restart._replace(inner=inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _wide(leaf):
    dtype = jnp.result_type(leaf)
    return at_least_single(dtype) if is_inexact(leaf) else dtype


def _check_row(name: str, row: Any, num_tasks: int):
    if jnp.shape(row) != (num_tasks,):
        raise ValueError(f"expected {name} of shape ({num_tasks},), one per task, got {jnp.shape(row)}.")
    return jnp.asarray(row).astype(jnp.float32)


def _average(old, new, share):
    """Return (1 − share)·old + share·new row by row, whatever a row with share zero holds."""
    if not is_inexact(old):
        return old
    share = share.reshape(share.shape + (1,) * (old.ndim - 1)).astype(old.real.dtype)
    return times(1 - share, old) + times(share, jnp.where(share > 0, new.astype(old.dtype), 0))


def _fill(mean, present, missing):
    """Put a row where a task had no example: the mean of the rows present, or zero."""
    if missing == "zero" or not is_inexact(mean):
        return mean
    present = present.reshape(present.shape + (1,) * (mean.ndim - 1))
    number = jnp.maximum(jnp.sum(present, axis=0, keepdims=True), 1).astype(mean.real.dtype)
    total = jnp.sum(jnp.where(present, mean, 0), axis=0, keepdims=True)
    return jnp.where(present, mean, map_parts(lambda part: part / number, total))
