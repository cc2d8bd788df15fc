"""ExcessMTL: weigh tasks by how far they are from their optimum, as AdaGrad's metric tells it."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.leaves import widest
from mtlgrad_jax.ground.logarithms import softmax_where
from mtlgrad_jax.ground.meshes import sum_of_pieces
from mtlgrad_jax.ground.presence import everyone, only_rows
from mtlgrad_jax.ground.rows import zeros_like_rows
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, PyTree, RowMethod

CLAIMS = Claims("weight where most is left to gain", keeps="PSF", needs="RS", sums_to="1", costs="T gradients")


class ExcessMtlState(NamedTuple):
    """What `excess_mtl` remembers; as much memory as T gradients."""

    roots: PyTree  # leaves (T, *param_shape), √Σ|g|² over the steps
    log_weights: jax.Array  # (T,)
    initial_excess: jax.Array  # (T,)
    started: jax.Array  # (T,) bool, whether a task has been seen


def rows(*, learning_rate: float = 1e-2) -> RowMethod:
    """Return the method itself, for `descent_direction`; options as in `excess_mtl`."""

    def init(num_tasks, params):
        return ExcessMtlState(
            roots=jax.tree.map(lambda leaf: leaf.real, zeros_like_rows(params, num_tasks)),
            log_weights=jnp.zeros(num_tasks) - math.log(num_tasks),
            initial_excess=jnp.zeros(num_tasks),
            started=jnp.zeros(num_tasks, bool),
        )

    def update(task_grads, state, *, axis_name=None, present=None):
        task_grads = only_rows(task_grads, present)
        roots, excess = _accumulate(task_grads, state.roots, axis_name)
        excess, present = excess.astype(state.log_weights.dtype), everyone(present, state.log_weights)
        initial = jnp.where(state.initial_excess > 0, state.initial_excess, excess)
        relative = jnp.where(initial > 0, excess / jnp.where(initial > 0, initial, 1), 0)
        step = jnp.asarray(learning_rate, relative.dtype) * jnp.minimum(relative, jnp.finfo(relative.dtype).max ** 0.5)
        moved = state.log_weights + jnp.where(state.started & present, step, 0)
        moved = moved - _log_sum(moved, present) + _log_sum(state.log_weights, present)
        log_weights = jnp.where(present, moved, state.log_weights)
        weights = softmax_where(log_weights, present)
        state = ExcessMtlState(roots, log_weights, initial, state.started | present)
        return stacked.combine(task_grads, weights), weights, state

    return RowMethod(init, update)


def excess_mtl(
    num_tasks: int | None = None,
    *,
    learning_rate: float = 1e-2,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow a convex combination of the task gradients with most weight where most is left to gain.

    A large loss may be large because the task is noisy; the excess risk, estimated from the gradient in
    AdaGrad's metric and relative to its first value, does not count what cannot be gained.

    eᵢ = Σ gᵢ²/√Sᵢ,   Sᵢ = Σ over steps of gᵢ²,   w ∝ w·exp(η eᵢ/eᵢ(first)),   u = Jᵀw

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      learning_rate: η.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients. The weights sum to one, and are equal at the first
      step; the published code makes them sum to T. A task whose first gradient is zero counts as e/e(first) = 0
      until one is not. No small number is added to √S, so a common scale of the gradients does not matter.

    Raises:
      ValueError: See `aggregate`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.excess_mtl(num_tasks=2, learning_rate=1.0)
      >>> state = tx.init(jnp.zeros(2))
      >>> for shrink in (1.0, 0.1):
      ...     _, state = tx.update(jnp.diag(jnp.array([1.0, shrink])), state)
      >>> jnp.round(state.weights, 4)
      Array([0.6676, 0.3324], dtype=float32)

    References:
      He et al., ICML 2024, (6)–(9), with the relative excess of its section 3.2.
    """
    return aggregate(rows(learning_rate=learning_rate), num_tasks, axis_name=axis_name, nonfinite=nonfinite)


def _accumulate(task_grads, roots, axis_name):
    """Return √Σ g² after this step, and Σ g²/√Σ g² per task."""
    leaves, treedef = jax.tree.flatten(task_grads)
    dtype = widest([leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)])
    moved, excess = [], []
    for leaf, root in zip(leaves, jax.tree.leaves(roots), strict=True):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            size = jnp.abs(leaf).astype(root.dtype)
            root = jnp.hypot(root, size)  # squares would leave the range of a float
            share = size * (size / jnp.where(root > 0, root, 1))
            excess.append(jnp.sum(share, axis=tuple(range(1, leaf.ndim)), dtype=dtype))
        moved.append(root)
    return jax.tree.unflatten(treedef, moved), sum_of_pieces(excess, axis_name)


def _log_sum(log_weights, present):
    """Return the logarithm of the weight of the tasks present, zero without any."""
    return jnp.where(jnp.any(present), jax.nn.logsumexp(log_weights, where=present), 0)
