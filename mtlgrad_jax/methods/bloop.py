"""Bloop: follow the primary, and the auxiliaries across it, as seen through a running mean."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.leaves import times
from mtlgrad_jax.ground.meshes import largest_of_pieces
from mtlgrad_jax.ground.presence import only, only_rows
from mtlgrad_jax.ground.ranges import exponent_of
from mtlgrad_jax.ground.rows import inner_products, move_towards, scale_tree, zeros_like_rows
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Method, Nonfinite, PyTree, RowMethod

CLAIMS = Claims("auxiliaries across the mean primary", keeps="SF", needs="RS", sums_to="1", costs="1 gradient")


class BloopState(NamedTuple):
    """What `bloop` remembers; as much memory as one gradient."""

    average: PyTree  # leaves (*param_shape), running mean of the primary gradient
    started: jax.Array  # () bool


def rows(*, strength: jax.Array | float = 0.1, ema: float = 0.1) -> RowMethod:
    """Return the method itself, for `descent_direction`; options as in `bloop`."""

    def init(num_tasks, params):
        del num_tasks  # the mean is that of one task
        return BloopState(zeros_like_rows(params), jnp.zeros((), bool))

    def update(task_grads, state, *, axis_name=None, present=None):
        task_grads = only_rows(task_grads, present)
        sees_primary = jnp.ones((), bool) if present is None else present[0]
        primary = jax.tree.map(lambda leaf: leaf[0], task_grads)
        average = move_towards(state.average, primary, jnp.where(sees_primary, jnp.where(state.started, ema, 1.0), 0.0))
        exponent = exponent_of(_largest(average, axis_name))
        unit = scale_tree(average, -exponent)
        along = inner_products(task_grads, unit, axis_name=axis_name)
        length = inner_products(jax.tree.map(lambda leaf: leaf[None], unit), unit, axis_name=axis_name)[0]
        length = length.astype(along.dtype)

        shares = jnp.broadcast_to(jnp.asarray(strength, along.dtype), along[1:].shape)
        weights = only(jnp.concatenate([jnp.ones_like(along[:1]), shares]), present)
        removed = jnp.sum(shares * along[1:]) / jnp.where(length > 0, length, 1)
        direction = jax.tree.map(lambda u, m: _subtract(u, removed, m), stacked.combine(task_grads, weights), unit)
        return direction, weights, BloopState(average, state.started | sees_primary)

    return RowMethod(init, update)


def bloop(
    num_tasks: int | None = None,
    *,
    strength: jax.Array | float = 0.1,
    ema: float = 0.1,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the primary gradient plus the part of the auxiliaries that is orthogonal to its running mean.

    The gradient of one batch is too noisy to project on; its mean over the steps is what the auxiliaries must
    not disturb.

    u = g₀ + Σ λⱼ(gⱼ − ⟨gⱼ,m⟩/‖m‖² m),   m ← (1−ρ)m + ρg₀

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      strength: λ, a number or shape `(T−1,)`.
      ema: ρ, the share of the new gradient in the mean, .01 to .1; the mean starts at the first gradient.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients. The primary's weight is one; when all tasks agree the
      auxiliaries add nothing to it. m includes this step, as in the published code (without its optional
      rescaling by 1/(1+λ)). `weights` in the state are (1, λ), on the rows; m's share is not among them. If m
      is zero nothing is projected away.

    Raises:
      ValueError: See `aggregate`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.bloop(num_tasks=2, strength=0.5)
      >>> state = tx.init(jnp.zeros(2))
      >>> tx.update(jnp.array([[2.0, 0.0], [-1.0, 1.0]]), state)[0]
      Array([2. , 0.5], dtype=float32)

    References:
      Hsieh et al., arXiv 2402.02998, for one auxiliary; here each is projected on its own.
    """
    return aggregate(
        Method(rows(strength=strength, ema=ema), num_primary=1), num_tasks, axis_name=axis_name, nonfinite=nonfinite
    )


def _largest(tree, axis_name):
    peaks = [jnp.max(jnp.abs(leaf), initial=0).astype(jnp.float32) for leaf in jax.tree.leaves(tree)]
    largest = largest_of_pieces(peaks, axis_name)
    return jnp.where(jnp.isfinite(largest), largest, 0)


def _subtract(leaf, share, other):
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    return (leaf.astype(other.dtype) - times(share, other)).astype(leaf.dtype)
