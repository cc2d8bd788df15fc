"""M-ConFIG: the gradient of one loss per step, a conflict-free direction of all of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax import step
from mtlgrad_jax.ground.leaves import cast_like, choose, is_inexact, map_parts, shapes, times
from mtlgrad_jax.ground.meshes import all_of_pieces
from mtlgrad_jax.ground.presence import everyone
from mtlgrad_jax.ground.rows import zeros_like_rows
from mtlgrad_jax.jacobians.stacked import Stacked
from mtlgrad_jax.methods import conflict_free
from mtlgrad_jax.transforms.aggregate import check_options, check_state, empty_record, record
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, PyTree

CLAIMS = Claims(
    "equal angles, one gradient per step", keeps="", needs="RSO", sums_to="T", costs="T + 2 gradients", degree=None
)


class MomentumConflictFreeState(NamedTuple):
    """What `momentum_conflict_free` remembers; as much memory as T + 2 gradients."""

    momenta: PyTree  # leaves (T, *param_shape), running mean of the gradient of every task
    counts: jax.Array  # (T,) int32, how often every task was seen
    combined: PyTree  # leaves (*param_shape), the direction of the last step times 1 − b1ᵗ
    squares: PyTree  # leaves (*param_shape), running mean of the squared pseudo-gradient
    num_steps: jax.Array  # () int32, t, since all tasks have been seen
    next_task: jax.Array  # () int32


def momentum_conflict_free(
    num_tasks: int | None = None,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the conflict-free direction of the running means of all gradients, computing one gradient per step.

    A step costs one backward pass whatever T. Like Adam it ends in a preconditioned update: a learning rate and
    nothing else comes after it.

    mᵢ ← b₁mᵢ + (1−b₁)gᵢ for one i,   d = conflict_free(m̂),   u = d/(√v̂ + ε),
    v ← b₂v + (1−b₂)h²,   h = ((1−b₁ᵗ)d − b₁(1−b₁ᵗ⁻¹)d_previous)/(1−b₁)

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      b1: Decay of the first moments.
      b2: Decay of the second moment.
      eps: ε, as in `optax.adam`: in the units of d, where preconditioning ends and a plain step begins.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of the *plain* gradient of one task, leaves `(*param_shape)`. The task is
      `tx.update(grads, state, params, task=i)`, an int or an int32 scalar, by default 0, 1, …, T−1 in turn
      (`state.memory.next_task` tells whose gradient comes next). The update is zero until every task has been
      seen; of those that are `present`, if that is passed: the means of others rest and do not count. State is an
      `AggregateState` whose `gram`, `weights` and `gap` are those of the means m̂; the weights
      sum to T when all tasks agree.

    Raises:
      ValueError: See `aggregate`; in `update`, if the gradients are not shaped like the parameters.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> losses = [lambda x: jnp.sum((x - 1) ** 2), lambda x: jnp.sum((x - 2) ** 2)]
      >>> tx = optax.chain(mtl.momentum_conflict_free(num_tasks=2), optax.scale_by_learning_rate(0.01))
      >>> params = jnp.zeros(2)
      >>> state = tx.init(params)
      >>> for step in range(200):
      ...     updates, state = tx.update(jax.grad(losses[step % 2])(params), state, params, task=step % 2)
      ...     params = optax.apply_updates(params, updates)
      >>> bool(jnp.all((params > 1) & (params < 2)))
      True

    References:
      Liu et al. (ConFIG), arXiv 2408.11104, algorithm 1; waiting for all tasks and ε as in its published code.
    """
    check_options(True, num_tasks, nonfinite)
    assert num_tasks is not None  # as was just checked
    method = step.ready(conflict_free.weights)

    def init(params) -> PyTree:
        return empty_record(num_tasks, params, _empty_memory(num_tasks, params))

    def update(updates, state, params=None, *, task=None, present=None, **extra_args) -> tuple[PyTree, PyTree]:
        del params, extra_args  # unused
        check_state(state, num_tasks)
        memory = state.memory
        _check_shapes(updates, memory.momenta)
        task = jnp.asarray(memory.next_task if task is None else task, jnp.int32)
        finite = all_of_pieces([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(updates)], axis_name)
        current = (jnp.arange(num_tasks, dtype=jnp.int32) == task).astype(jnp.float32)
        attending = everyone(None if present is None else jnp.asarray(present, bool), current)
        seen = jnp.where(attending & (finite | (nonfinite == "propagate")), current, 0)

        momenta = jax.tree.map(lambda m, g: _move_row(m, g, seen, 1 - b1), memory.momenta, updates)
        counts = memory.counts + seen.astype(jnp.int32)
        ready = attending[task] & jnp.all((counts > 0) | ~attending) & (finite | (nonfinite != "skip"))
        means = jax.tree.map(lambda m: _unbias(m, counts, b1), momenta)
        jac, present = Stacked(means, axis_name), None if present is None else attending
        taken = step.take(method, jac, (), present=present)

        memory = memory._replace(momenta=momenta, counts=counts, next_task=_next(task, attending))
        scaled, proposed = _precondition(taken.update, memory, b1, b2, eps)
        memory = choose(ready, proposed, memory)
        scaled = choose(ready, scaled, jax.tree.map(jnp.zeros_like, scaled))
        bad = (current > 0) & attending & ~finite
        return cast_like(scaled, updates), record(state, taken._replace(finite=~bad, memory=memory))

    return optax.GradientTransformationExtraArgs(init, update)


def _next(task, attending):
    """Return the first attending task behind this one, in turn."""
    turns = (task + 1 + jnp.arange(attending.shape[0], dtype=jnp.int32)) % attending.shape[0]
    return turns[jnp.argmax(attending[turns])]


def _empty_memory(num_tasks, params):
    return MomentumConflictFreeState(
        momenta=zeros_like_rows(params, num_tasks),
        counts=jnp.zeros(num_tasks, jnp.int32),
        combined=zeros_like_rows(params),
        squares=jax.tree.map(lambda leaf: leaf.real, zeros_like_rows(params)),
        num_steps=jnp.zeros((), jnp.int32),
        next_task=jnp.zeros((), jnp.int32),
    )


def _precondition(direction, memory, b1, b2, eps):
    """Return d/(√v̂ + ε) and the memory after a step, with v that of the pseudo-gradient h."""
    num_steps = memory.num_steps + 1
    t = num_steps.astype(jnp.float32)
    unbiased, correction = 1 - b1**t, jnp.maximum(1 - b2**t, 1 - b2)  # at t = 1 the difference is mostly rounding
    combined = jax.tree.map(lambda d: times(unbiased, d), direction)
    squares = jax.tree.map(
        lambda v, new, old: b2 * v + (1 - b2) * jnp.abs((new - times(b1, old)) / (1 - b1)) ** 2,
        memory.squares,
        combined,
        memory.combined,
    )
    roots = jax.tree.map(lambda v: jnp.sqrt(v / correction.astype(v.dtype)) + eps, squares)
    scaled = jax.tree.map(lambda d, root: map_parts(lambda part: part / root, d), direction, roots)
    return scaled, memory._replace(combined=combined, squares=squares, num_steps=num_steps)


def _check_shapes(updates, momenta):
    leaves, expected = jax.tree.leaves(updates), [rows.shape[1:] for rows in jax.tree.leaves(momenta)]
    if [jnp.shape(leaf) for leaf in leaves] != expected or not any(map(is_inexact, leaves)):
        raise ValueError(
            f"momentum_conflict_free expected the plain gradient of one task, floating leaves of shapes {expected}, "
            f"got {shapes(updates)}; pass jax.grad of one loss, not stacked gradients."
        )


def _move_row(momentum, gradient, seen, share):
    if not jnp.issubdtype(gradient.dtype, jnp.inexact):
        return momentum
    mask = seen.reshape(seen.shape + (1,) * gradient.ndim) > 0
    return jnp.where(mask, momentum + times(share, gradient.astype(momentum.dtype)[None] - momentum), momentum)


def _unbias(momentum, counts, b1):
    counts = counts.astype(momentum.real.dtype).reshape(counts.shape + (1,) * (momentum.ndim - 1))
    seen = jnp.where(counts > 0, 1 - b1**counts, 1)
    return map_parts(lambda part: part / seen, momentum)
