"""The α-fair program: Nash bargaining (α = 1) and its relatives, by damped Newton steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtlgrad_jax.ground.grams import check_gram, dot, reciprocal, round_lengths, row_norms
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two
from mtlgrad_jax.solvers import _products, _program, _restricted
from mtlgrad_jax.solvers._packed_loop import while_loop
from mtlgrad_jax.solvers.min_norm import min_norm
from mtlgrad_jax.typing import Gram, Solution

MAX_STEPS = 60


class _Newton(NamedTuple):
    v: jax.Array  # (T,), weights of the gradients of length one, positive
    change: jax.Array  # (), largest relative change of the last step
    num_steps: jax.Array  # () int32


@jax.jit
def alpha_fair(
    gram: Gram,
    *,
    alpha: jax.Array | float = 1.0,
    preference: jax.Array | None = None,
    log2_scale: jax.Array | int = 0,
) -> Solution:
    """Find weights that are each the given power of the progress of their task.

    The stationarity conditions of a strictly convex program. Steps are shortened so that no weight falls by
    more than a fixed share, which makes every step a descent step without a line search.

    (Gw)ᵢ = (wᵢ/Tpᵢ)^(−1/α),  w > 0;   min ½wᵀGw − Σ (Tpᵢ)^(1/α) wᵢ^(1−1/α)/(1−1/α)   (α = 1: Σ Tpᵢ log wᵢ)

    Args:
      gram: G = JJᵀ, shape `(T, T)`, float32 or float64.
      alpha: α > 0.
      preference: p, shape `(T,)`, non-negative; 1/T each by default. A task with pᵢ = 0 is left out.
      log2_scale: k, if `gram` is that of 2⁻ᵏJ.

    Returns:
      `Solution(x, gap, num_steps)`: w, shape `(T,)`, in units of length^(−2α/(1+α)), and
      gap = max_i |(wᵢ/Tpᵢ)^(1/α)(Gw)ᵢ − 1|. At a Pareto stationary point there is no answer: w = 0 and the gap is
      infinite. In float32 so does it where no direction in the hull is longer than about 3e-4 of the gradients:
      there the rounding of G decides, and at half of that float64 finds no answer from the same G either.
      A zero gradient gets weight zero and is left out. Input that is not finite gives NaN and an infinite gap.
      With α ≠ 1 and lengths spread over more than about six decades the conditions of the shortest gradients
      are below the rounding of the others, and the gap says so.

    Raises:
      ValueError: If `gram` is not square.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.solvers.alpha_fair(jnp.diag(jnp.array([4.0, 1.0]))).x
      Array([0.5, 1. ], dtype=float32)

    References:
      Navon et al. (Nash-MTL), arXiv 2202.01017, (2); Ban & Ji (FairGrad), arXiv 2402.15638, (6).
    """
    num_tasks = check_gram(gram)
    finite = jnp.all(jnp.isfinite(gram))
    safe = jnp.where(finite, gram, jnp.eye(num_tasks, dtype=gram.dtype))
    alpha = jnp.asarray(alpha, gram.dtype)

    half = exponent_of(jnp.max(row_norms(safe)))
    unit = scale_by_power_of_two(safe, -2 * half)
    scaled, units = round_lengths(unit)
    shares = _shares(preference, gram)
    present = (units > 0) & (shares > 0)
    scaled = jnp.where(present[:, None] & present[None, :], scaled, jnp.eye(num_tasks, dtype=gram.dtype))
    solvable = _agree(scaled)
    reward = jnp.power(jnp.where(present, shares, 1), 1 / alpha)
    v, num_steps = _newton(scaled, jnp.where(present, reciprocal(units), 1), reward, alpha, solvable)
    weights = jnp.where(solvable & present, v * units, 0)

    known = lax.stop_gradient(jnp.where(solvable & present, v, 0))
    kappa, _ = _rewards(jnp.where(present, reciprocal(units), 1), *lax.stop_gradient((reward, alpha)))
    progress = jnp.where(present, jnp.power(known, 1 / alpha) * _progress(lax.stop_gradient(scaled), known) / kappa, 1)
    gap = jnp.where(jnp.any(present) & ~solvable, jnp.inf, jnp.max(jnp.abs(progress - 1)))
    weights = _rescale(weights, -2 * alpha / (1 + alpha), half + jnp.asarray(log2_scale))
    return Solution(jnp.where(finite, weights, jnp.nan), jnp.where(finite, lax.stop_gradient(gap), jnp.inf), num_steps)


def _agree(scaled):
    """Tell whether the hull of the rows is away from zero by more than the rounding error of a Gram matrix."""
    scaled = lax.stop_gradient(scaled)
    shortest = min_norm(scaled).x
    hull = dot(shortest, _progress(scaled, shortest))
    return hull > 0.6 * jnp.finfo(scaled.dtype).eps * dot(shortest, dot(jnp.abs(scaled), shortest))


def _progress(scaled, weights):
    high, low = _products.product(_products.of_matrix(scaled, _program.EXPONENT), weights)
    return high + low


def fairness_gap(
    gram: Gram, weights: jax.Array, *, alpha: jax.Array | float = 1.0, preference: jax.Array | None = None
) -> jax.Array:
    """Measure how unequal (wᵢ/pᵢ)^(1/α)(Gw)ᵢ is among tasks, whatever the length of w.

    Args:
      gram: G, shape `(T, T)`.
      weights: w, shape `(T,)`, non-negative.
      alpha: α > 0.
      preference: p, shape `(T,)`, non-negative; 1/T each by default.

    Returns:
      The largest relative deviation from the mean, a non-negative scalar; infinite if w = 0 although there
      are gradients. Zero gradients, and tasks with pᵢ = 0, are left out.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> float(mtl.solvers.fairness_gap(jnp.eye(2), jnp.array([3.0, 1.0])))
      0.8
    """
    lengths = row_norms(gram)
    wanted = _shares(preference, gram)
    present = (lengths > 0) & (wanted > 0)
    alpha = jnp.asarray(alpha, gram.dtype)
    shares = weights * reciprocal(jnp.max(weights))
    unit = reciprocal(jnp.max(lengths))
    relative = shares / jnp.where(present, wanted, 1)
    progress = jnp.power(relative, 1 / alpha) * dot(gram * unit * unit, shares)
    num_present = jnp.maximum(jnp.sum(present.astype(gram.dtype)), 1)
    mean = jnp.sum(jnp.where(present, progress, 0)) / num_present
    deviation = jnp.max(jnp.where(present, jnp.abs(progress - mean), 0)) / jnp.where(mean > 0, mean, 1)
    return jnp.where(jnp.any(present) & ~(mean > 0), jnp.inf, deviation)


def _shares(preference, gram):
    """Return Tp."""
    if preference is None:
        return jnp.ones_like(gram[0])
    if jnp.shape(preference) != gram.shape[:1]:
        raise ValueError(f"expected preference of shape {gram.shape[:1]}, got {jnp.shape(preference)}.")
    return gram.shape[0] * jnp.asarray(preference, gram.dtype)


@jax.custom_jvp
def _newton(scaled, lengths, reward, alpha, needed):
    """Solve (Qv)ᵢ = κᵢ vᵢ^(−1/α), κᵢ = (Tpᵢ)^(1/α) ‖gᵢ‖^(1/α − 1), the program of scaled gradients."""
    num_tasks = lengths.shape[0]
    eps = jnp.finfo(lengths.dtype).eps.item()
    kappa, power = _rewards(lengths, reward, alpha)
    largest_fall = 1 - jnp.power(2 / 3, 1 / (1 + 1 / alpha)).astype(lengths.dtype)  # curvature rises by ≤ 3/2

    def advance(newton):
        v = newton.v
        reward = kappa * jnp.power(v, power)
        matrix, inverse = _restricted.relative(scaled, v, reward / alpha)
        factor = _restricted.factorize(matrix, v > 0, 2 * eps * num_tasks**0.5)
        change = factor.solve((reward - v * _progress(scaled, v)) * inverse) * inverse
        fall = jnp.max(-change)
        change = change * jnp.where(fall > largest_fall, largest_fall / jnp.where(fall > 0, fall, 1), 1)
        return _Newton(v * (1 + change), jnp.max(jnp.abs(change)), newton.num_steps + 1)

    def unfinished(newton):
        return (newton.change > eps**0.5) & (newton.num_steps < MAX_STEPS)

    # Exact if all tasks agree; otherwise too small, from where Newton steps double the weights.
    start = jnp.power(kappa / num_tasks, 1 / (1 + 1 / alpha))
    none = (0 * start[0]).astype(jnp.int32)
    end = while_loop(unfinished, advance, _Newton(start, needed.astype(start.dtype), none))
    return end.v, end.num_steps


@_newton.defjvp  # pyright: ignore[reportArgumentType]
def _move(primals, tangents):
    """Differentiate Qv = κv^(−1/α); lengths are powers of two and do not vary."""
    scaled, lengths, reward, alpha, _ = primals
    scaled_dot, _, reward_dot, alpha_dot, _ = tangents
    v, num_steps = _newton(*primals)
    kappa, power = _rewards(lengths, reward, alpha)
    target = kappa * jnp.power(v, power)
    matrix, inverse = _restricted.relative(scaled, v, target / alpha)
    rise = target * (reward_dot / reward + (jnp.log(v) - jnp.log(lengths)) / (alpha * alpha) * alpha_dot)
    slope_dot = v * dot(scaled_dot, v) - rise
    v_dot = v * inverse * _restricted.differentiate(matrix, v > 0)(slope_dot * inverse)
    return (v, num_steps), (v_dot, np.zeros((), jax.dtypes.float0))


def _rewards(lengths, reward, alpha):
    power = 1 - 1 / alpha
    return reward * jnp.power(lengths, -power), power


def _rescale(weights, degree, exponent):
    """Multiply by 2^(degree · exponent), exactly where that is an integer power."""
    total = degree * exponent.astype(weights.dtype)
    whole = jnp.round(total)
    return scale_by_power_of_two(weights, whole.astype(jnp.int32)) * jnp.exp2(total - whole)
