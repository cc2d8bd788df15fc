"""PCD: follow the primary, and guarantee every auxiliary a share of its own progress."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram, check_memory, dot, reciprocal, round_lengths, row_norms
from mtlgrad_jax.ground.presence import everyone, leave_out
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.solvers import nnls
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Method, Nonfinite, PerTask, StatefulWeighting

CLAIMS = Claims("primary, and a share for the rest", keeps="F", needs="S", sums_to="1", costs="program")


class PcdState(NamedTuple):
    """Running lengths, and whether the last step kept its guarantee."""

    rms: jax.Array  # (T,), √EMA‖gᵢ‖², not yet corrected for its start at zero
    num_steps: jax.Array  # (T,) int32, in which a task took part
    gap: jax.Array  # (), certificate of the projection; largest float at first, infinite without a direction


def weighting(
    *, tau: PerTask = 0.02, beta: jax.Array | float = 0.999, eps: jax.Array | float = 0.0
) -> StatefulWeighting:
    """Follow the primary gradient while every auxiliary gains a share of what its own gradient would give.

    `primary_aux` with a margin: not merely unhurt, the auxiliaries progress. Gradients are first divided by
    their running lengths, so that the shares do not depend on the units of the losses.

    min ½‖d − g̃₀‖²  s.t.  ⟨g̃ⱼ,d⟩ ≥ τⱼ‖g̃ⱼ‖²,   g̃ᵢ = gᵢ/√(EMA‖gᵢ‖² + ε);   u = ‖g₀‖·d/‖d‖

    Args:
      tau: τ, a number or shape `(T − 1,)`, one per auxiliary; between 0 and 1.
      beta: Decay of the average of ‖gᵢ‖², which is corrected for its start at zero.
      eps: ε. The paper adds 1e-8, in units of squared gradients; by default nothing is added and a gradient
        that has always been zero is left out.

    Returns:
      A `typing.StatefulWeighting`, the primary in the first row. The update is as long as g₀, so that the weights sum
      to one when all tasks agree. If no direction keeps the guarantee (it takes two opposed auxiliaries),
      u = g₀ as in the paper, and `PcdState.gap` is infinite. A zero primary gives a zero update.

    Raises:
      ValueError: In `update`, if `tau` is not a number or of shape `(T − 1,)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.pcd(tau=0.5)
      >>> weights, state = weighting.update(jnp.eye(2), weighting.init(2))
      >>> weights.round(4)
      Array([0.8944, 0.4472], dtype=float32)

    References:
      Priority-constrained descent, arXiv 2606.29521.
    """

    def init(num_tasks):
        rms = jnp.zeros(num_tasks)
        return PcdState(rms, jnp.zeros(num_tasks, jnp.int32), jnp.full_like(rms, jnp.finfo(jnp.float32).max)[0])

    def update(gram, state, *, log2_scale=0, present=None):
        check_memory(state.rms, gram)
        gram, present = leave_out(gram, present), everyone(present, gram[0])
        decay = jnp.asarray(beta, gram.dtype)
        scaled, powers = round_lengths(gram)  # exactly, as the multipliers may be large
        lengths = scale_by_power_of_two(row_norms(gram), jnp.asarray(log2_scale))
        num_steps, before = state.num_steps + present.astype(jnp.int32), state.rms.astype(gram.dtype)
        rms = jnp.where(present, jnp.hypot(jnp.sqrt(decay) * before, jnp.sqrt(1 - decay) * lengths), before)
        start = -jnp.expm1(jnp.maximum(num_steps, 1).astype(gram.dtype) * jnp.log(decay))  # 1 − βᵗ
        unit = jnp.hypot(rms / jnp.sqrt(start), jnp.sqrt(jnp.asarray(eps, gram.dtype)))

        shares, gap = _project(scaled, lengths * reciprocal(unit), _shares(tau, gram))
        weights = shares * powers * row_norms(gram)[0]
        return weights, PcdState(rms.astype(state.rms.dtype), num_steps, gap.astype(state.gap.dtype))

    return StatefulWeighting(init, update)


def _project(scaled, ratios, tau):
    """Return coefficients of the scaled gradients for a direction of length one, and the certificate.

    Args:
      scaled: Gram matrix of gradients scaled by powers of two, shape `(T, T)`.
      ratios: ‖g̃ᵢ‖, shape `(T,)`.
      tau: Shape `(T − 1,)`.
    """
    present, lengths = ratios > 0, row_norms(scaled)
    products = jnp.where(present[:, None] & present[None, :], scaled, 0)
    primary = jnp.where(jnp.arange(ratios.shape[0]) == 0, ratios / lengths, 0)
    if ratios.shape[0] == 1:
        return primary * reciprocal(ratios), jnp.zeros_like(ratios[0])
    margin = tau * (ratios * lengths)[1:]
    solution = nnls(products[1:, 1:], products[1:, 0] * primary[0] - margin)
    found = primary + jnp.concatenate([jnp.zeros_like(ratios[:1]), solution.x])
    gains = dot(products, found)
    # Whether the guarantee holds is asked of the direction: the gap of the program is in units of its multipliers.
    kept = jnp.max(margin - gains[1:]) <= jnp.sqrt(jnp.finfo(ratios.dtype).eps) * _length(found, gains)
    shares = jnp.where(kept, found, primary)
    return shares * reciprocal(_length(shares, dot(products, shares))), jnp.where(kept, solution.gap, jnp.inf)


def _length(shares, gains):
    square = dot(shares, gains)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _shares(tau, gram):
    num_auxiliary = check_gram(gram) - 1
    shares = jnp.asarray(tau, gram.dtype)
    if shares.shape not in ((), (num_auxiliary,)):
        raise ValueError(f"expected tau to be a number or of shape ({num_auxiliary},), got {shares.shape}.")
    return jnp.broadcast_to(shares, (num_auxiliary,))


def pcd(
    num_tasks: int | None = None,
    *,
    tau: PerTask = 0.02,
    beta: jax.Array | float = 0.999,
    eps: jax.Array | float = 0.0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the primary gradient while every auxiliary gains a share of its own progress.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      tau: τ, a number or shape `(T − 1,)`, one per auxiliary; between 0 and 1.
      beta: Decay of the average of ‖gᵢ‖², which is corrected for its start at zero.
      eps: ε. The paper adds 1e-8, in units of squared gradients; by default nothing is added and a gradient
        that has always been zero is left out.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.pcd(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(
        Method(weighting(tau=tau, beta=beta, eps=eps), num_primary=1),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
    )
