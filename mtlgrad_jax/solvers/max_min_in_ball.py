"""CAGrad's program: the direction in a ball that serves the worst-off task best."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtlgrad_jax.ground.grams import check_gram, dot, reciprocal, round_lengths, row_norms, without_scale
from mtlgrad_jax.solvers import _restricted
from mtlgrad_jax.solvers._packed_loop import while_loop
from mtlgrad_jax.solvers.min_norm import min_norm
from mtlgrad_jax.solvers.nnls import nnls
from mtlgrad_jax.typing import Gram, Solution

MAX_STEPS = 40


class _Level(NamedTuple):
    level: jax.Array  # (), ν, never below the optimal value
    x: jax.Array  # (T,), the closest direction that reaches ν is Jᵀ(p + x)
    distance: jax.Array  # (), ‖Jᵀx‖
    lower: jax.Array  # (), the next ν
    num_steps: jax.Array  # () int32


@jax.jit
def max_min_in_ball(gram: Gram, center: jax.Array, radius: jax.Array | float) -> Solution:
    """Find the direction near Jᵀp whose smallest inner product with a gradient is largest.

    The nearest direction that reaches a level ν is a non-negative least-squares problem, and its distance
    is convex in ν: Newton's method on ν approaches the radius from above, in a few steps.

    max_d min_i ⟨gᵢ,d⟩  s.t.  ‖d − Jᵀp‖ ≤ r‖Jᵀp‖;   d = Jᵀ(p + x),  x ≥ 0

    Args:
      gram: G = JJᵀ, shape `(T, T)`, float32 or float64. Only ratios of its entries matter.
      center: p, shape `(T,)`, same dtype.
      radius: r ≥ 0, relative to the length of Jᵀp.

    Returns:
      `Solution(x, gap, num_steps)`: x ≥ 0, shape `(T,)`, and the duality gap of `max_min_gap`. Where several
      directions are optimal (at Pareto stationary points, or with a zero gradient) it is the one nearest the
      center. Input that is not finite gives NaN and an infinite gap.

    Raises:
      ValueError: If `gram` is not square or `center` is not of shape `(T,)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.solvers.max_min_in_ball(jnp.eye(2), jnp.array([1.0, 0.0]), 0.5).x
      Array([0. , 0.5], dtype=float32)

    References:
      Liu et al. (CAGrad), arXiv 2110.14048, (3) and its dual (5).
    """
    if center.shape != (check_gram(gram),):
        raise ValueError(f"expected center of shape {gram.shape[:1]}, one weight per task, got {center.shape}.")
    finite = jnp.all(jnp.isfinite(gram)) & jnp.all(jnp.isfinite(center))
    safe = without_scale(jnp.where(finite, gram, jnp.eye(gram.shape[0], dtype=gram.dtype)))
    p = jnp.where(finite, center, 0)
    reach = jnp.asarray(radius, gram.dtype)
    x, shortest, num_steps = _solve(safe, p, reach)
    gap = _gap(*lax.stop_gradient((safe, p, reach, x, shortest)))
    return Solution(jnp.where(finite, x, jnp.nan), jnp.where(finite, gap, jnp.inf), num_steps)


@jax.custom_jvp
def _solve(gram, p, radius):
    along = dot(gram, p)
    reach = radius * _length(gram, p)

    def visit(level, num_steps):
        x = nnls(gram, along - level).x
        distance = _length(gram, x)
        return _Level(level, x, distance, jnp.minimum(_bound(gram, along, reach, x), level), num_steps)

    def unfinished(visited):
        outside = visited.distance > reach
        return outside & (visited.lower < visited.level) & (visited.num_steps < MAX_STEPS)

    # The levels that single tasks and the point of smallest norm allow: at a stationary point the latter is
    # zero, above which no direction would reach.
    shortest = min_norm(gram).x
    start = _first_bound(gram, along, reach, shortest)
    first = visit(start, (0 * start).astype(jnp.int32))
    end = while_loop(unfinished, lambda visited: visit(visited.lower, visited.num_steps + 1), first)
    return end.x * jnp.minimum(reach * reciprocal(end.distance), 1), shortest, end.num_steps


@_solve.defjvp  # pyright: ignore[reportArgumentType]
def _move(primals, tangents):
    """Differentiate Gx + Gp = ν where x is positive, and ‖Jᵀx‖ = r‖Jᵀp‖ if that holds."""
    gram, p, radius = primals
    gram_dot, p_dot, radius_dot = tangents
    x, shortest, num_steps = _solve(gram, p, radius)
    scaled, units = round_lengths(lax.stop_gradient(gram))
    move = _restricted.differentiate(scaled, x > 0)
    pull_dot = dot(gram_dot, p + x) + dot(gram, p_dot)
    fixed = units * move(units * pull_dot)  # ẋ at a fixed level
    raised = -units * move(units)  # per unit of the level

    reach_square = dot(p, dot(gram, p))
    reach_dot = radius * (
        radius_dot * reach_square + radius * (dot(p, dot(gram, p_dot)) + dot(p, dot(gram_dot, p)) / 2)
    )
    slope = dot(gram, x)
    growth = dot(slope, raised)
    on_sphere = (dot(x, slope) >= 0.99 * radius * radius * reach_square) & (growth > 0)
    level_dot = (reach_dot - dot(x, dot(gram_dot, x)) / 2 - dot(slope, fixed)) / jnp.where(on_sphere, growth, 1)
    x_dot = fixed + raised * jnp.where(on_sphere, level_dot, 0)
    return (x, shortest, num_steps), (x_dot, jnp.zeros_like(shortest), np.zeros((), jax.dtypes.float0))


def max_min_gap(gram: Gram, center: jax.Array, radius: jax.Array | float, x: jax.Array) -> jax.Array:
    """Measure the duality gap of Jᵀ(p + x) for the max-min program in a ball.

    min_{α∈Δ} ⟨Jᵀα, Jᵀp⟩ + r‖Jᵀp‖‖Jᵀα‖ bounds every smallest inner product from above; the best is taken of
    α = x/Σx, the point of smallest norm, and single tasks.

    Args:
      gram: G, shape `(T, T)`.
      center: p, shape `(T,)`.
      radius: r.
      x: Shape `(T,)`, non-negative.

    Returns:
      A non-negative scalar, the worse of the gap relative to the largest squared length of a row and of how
      far the direction lies outside the ball relative to the largest length.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> float(mtl.solvers.max_min_gap(jnp.eye(2), jnp.array([1.0, 0.0]), 0.5, jnp.array([0.0, 0.5])))
      0.0
    """
    return _gap(gram, center, radius, x, min_norm(gram).x)


def _gap(gram, center, radius, x, shortest):
    unit = reciprocal(jnp.max(row_norms(gram)))
    gram = gram * unit * unit
    along = dot(gram, center)
    reach = jnp.asarray(radius, gram.dtype) * _length(gram, center)
    upper = jnp.minimum(_bound(gram, along, reach, x), _first_bound(gram, along, reach, shortest))
    dual = upper - jnp.min(along + dot(gram, x))
    return jnp.maximum(jnp.maximum(dual, _length(gram, x) - reach), 0)


def _first_bound(gram, along, reach, shortest):
    """Return the best dual objective of single tasks and of the point of smallest norm."""
    return jnp.minimum(jnp.min(along + reach * row_norms(gram)), _bound(gram, along, reach, shortest))


def _bound(gram, along, reach, x):
    """Return the dual objective at x/Σx, infinite at x = 0."""
    total = jnp.sum(x)
    share = x * reciprocal(total)
    return jnp.where(total > 0, dot(share, along) + reach * _length(gram, share), jnp.inf)


def _length(gram, weights):
    """Return ‖Jᵀw‖."""
    return jnp.sqrt(jnp.maximum(dot(weights, dot(gram, weights)), 0))
