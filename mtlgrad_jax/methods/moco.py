"""MoCo: MGDA's program followed on gradients averaged over the steps."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.ground.leaves import cast_like
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.ground.rows import move_towards, zeros_like_rows
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.methods._simplex import descend, restrict, resume
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, PyTree, RowMethod

CLAIMS = Claims("MGDA on averaged gradients", keeps="PSF", needs="RS", sums_to="1", costs="T gradients", degree=None)


class MocoState(NamedTuple):
    """What `moco` remembers; as much memory as T gradients."""

    averages: PyTree  # leaves (T, *param_shape), Y
    weights: jax.Array  # (T,), λ
    count: jax.Array  # () int32


def rows(*, beta: optax.ScalarOrSchedule = 0.5, gamma: optax.ScalarOrSchedule = 0.1, rho: float = 0.0) -> RowMethod:
    """Return the method itself, for `descent_direction`; options as in `moco`."""

    def init(num_tasks, params):
        uniform = jnp.ones(num_tasks) / num_tasks
        return MocoState(zeros_like_rows(params, num_tasks), uniform, jnp.zeros((), jnp.int32))

    def update(task_grads, state, *, axis_name=None, present=None):
        share = _at(beta, state.count)
        share = share if present is None else jnp.where(present, share, 0.0)
        averages = move_towards(state.averages, task_grads, share)
        gram, log2_scale = stacked.scaled_gram(averages, axis_name=axis_name)
        weights, total = restrict(state.weights.astype(gram.dtype), present)
        limit = jnp.finfo(gram.dtype).max / 4
        slope = jnp.clip(scale_by_power_of_two(dot(gram, weights), 2 * log2_scale), -limit, limit)
        slope = slope + jnp.asarray(rho, gram.dtype) * weights
        weights = descend(weights, slope, jnp.asarray(_at(gamma, state.count), gram.dtype), present)
        direction = cast_like(stacked.combine(averages, weights), jax.tree.map(lambda leaf: leaf[0], task_grads))
        count = jnp.asarray(optax.safe_increment(state.count))
        return direction, weights, MocoState(averages, resume(state.weights, weights, total, present), count)

    return RowMethod(init, update)


def moco(
    num_tasks: int | None = None,
    *,
    beta: optax.ScalarOrSchedule = 0.5,
    gamma: optax.ScalarOrSchedule = 0.1,
    rho: float = 0.0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow a convex combination of averaged task gradients that approaches MGDA's without the bias of a batch.

    Y ← Y + β(J − Y),   λ ← Π_Δ(λ − γ(YYᵀ + ρI)λ),   u = Yᵀλ

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      beta: β, a number or an Optax schedule; one for no average.
      gamma: γ, a number or an Optax schedule, in units of one over a squared gradient length: its effect depends
        on the scale of the losses.
      rho: ρ, which draws the weights together; zero in the published code, positive in the paper's theory.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients. The weights sum to one and start equal; they are those
      on Y, which starts at zero, so that the first updates are short. The published code (in LibMTL) replaces gᵢ by
      Lᵢgᵢ/‖gᵢ‖ and the projection by a softmax, and divides β = .5 and γ = .1 by the root of the step: pass schedules
      such as `lambda count: 0.5 / jnp.sqrt(count + 1.0)` for the last.

    Raises:
      ValueError: See `aggregate`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.moco(num_tasks=2, beta=1.0)
      >>> update, state = tx.update(jnp.diag(jnp.array([1.0, 2.0])), tx.init(jnp.zeros(2)))
      >>> [f"{weight:.3f}" for weight in state.weights]
      ['0.575', '0.425']

    References:
      Fernando et al., arXiv 2210.12624, algorithm 1.
    """
    return aggregate(rows(beta=beta, gamma=gamma, rho=rho), num_tasks, axis_name=axis_name, nonfinite=nonfinite)


def _at(value, count) -> Any:
    return value(count) if callable(value) else value
