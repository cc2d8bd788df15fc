"""The active-set method: one coordinate in at a time, never uphill.

Lawson & Hanson's non-negative least squares; on the simplex program it is Wolfe's (1976) method
for the point of smallest norm, that is Frank–Wolfe that re-optimises over all active vertices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import _restricted

MAX_ARRIVALS = 10


class _Face(NamedTuple):
    free: jax.Array  # (n,) bool
    barred: jax.Array  # (n,) bool, left since the last arrival: may not return, or rounding could cycle
    x: jax.Array  # (n,), feasible, zero outside `free`
    best: jax.Array  # (n,), the arrival with the smallest residual
    residual: jax.Array  # (), that residual
    num_arrivals: jax.Array  # () int32
    done: jax.Array  # () bool
    num_steps: jax.Array  # () int32


def solve(quadratic: jax.Array, linear: jax.Array, start: jax.Array, needed: jax.Array | bool = True):
    """Solve min ½xᵀQx + cᵀx, x ≥ 0 by inserting the steepest coordinate and re-optimising.

    On a face with nothing left to insert the proximal steps are repeated, which removes the
    regularisation where Q is singular. Where rounding made Q indefinite they would diverge, so the
    arrival with the smallest residual is kept.

    Args:
      quadratic: Q, shape `(n, n)`, positive semi-definite, diagonal of order one.
      linear: c, shape `(n,)`.
      start: A feasible point, shape `(n,)`.
      needed: If false, return `start` at once.

    Returns:
      x, shape `(n,)`, and the number of steps, at most `5n + 20`.
    """
    n = linear.shape[0]
    rho = (8 + 2 * n) * jnp.finfo(quadratic.dtype).eps.item()

    def advance(face):
        target = _restricted.minimize(quadratic, linear, face.free, face.x, rho)
        face, blocked = _walk(face, jnp.where(jnp.isfinite(target), target, 0))  # no factor: leave this face
        return _arrive(face, ~jnp.any(blocked), quadratic, linear)

    def unfinished(face):
        return ~face.done & (face.num_steps < 5 * n + 20)

    end = lax.while_loop(unfinished, advance, _first_face(quadratic, linear, start, needed))
    return end.best, end.num_steps


def _first_face(quadratic, linear, start, needed):
    """Start on the coordinates that are positive, and the steepest at zero."""
    residual = _residual(start, dot(quadratic, start) + linear)
    none = (0 * residual).astype(jnp.int32)  # varies over a mesh as the input does
    is_steepest = jnp.arange(linear.shape[0]) == jnp.argmin(linear)
    return _Face(
        free=(start > 0) | (is_steepest & (none == 0)),
        barred=start < 0,
        x=start,
        best=start,
        residual=residual,
        num_arrivals=none,
        done=(none > 0) | ~jnp.asarray(needed),
        num_steps=none,
    )


def _walk(face, target):
    """Go to the minimum of the face or up to the first coordinate that would turn negative, which leaves the face."""
    blocked = face.free & ~(target > 0)
    fall = face.x - target
    room = jnp.where(blocked, face.x / jnp.where(fall > 0, fall, 1), 1)
    length = jnp.minimum(jnp.min(room), 1)
    stopped = blocked & (room <= length)
    free = face.free & ~stopped
    x = jnp.where(free, jnp.maximum(face.x + length * (target - face.x), 0), 0)
    return face._replace(free=free, barred=face.barred | stopped, x=x), blocked


def _arrive(face, unblocked, quadratic, linear):
    """At the minimum of a face let the steepest coordinate in; with none left to insert, keep the best arrival."""
    slope = dot(quadratic, face.x) + linear
    tolerance = _restricted.rounding_error(quadratic, linear, face.x) / 4
    steepness = jnp.where(face.free | face.barred, jnp.inf, slope + tolerance)
    steepest = jnp.argmin(steepness)
    arrived = unblocked & (steepness[steepest] >= 0)
    inserted = unblocked & ~arrived & (jnp.arange(linear.shape[0]) == steepest)

    residual = _residual(face.x, slope)
    better = arrived & (residual < face.residual)
    num_arrivals = face.num_arrivals + arrived.astype(jnp.int32)
    stationary = jnp.all((slope >= -tolerance) & ((face.x == 0) | (slope <= tolerance)))
    return face._replace(
        free=face.free | inserted,
        barred=face.barred & ~arrived,
        best=jnp.where(better, face.x, face.best),
        residual=jnp.where(better, residual, face.residual),
        num_arrivals=num_arrivals,
        done=arrived & (stationary | (num_arrivals >= MAX_ARRIVALS)),
        num_steps=face.num_steps + 1,
    )


def _residual(x, slope):
    """Return max(max(−s), max |xs|), how far x and its slope are from optimality."""
    return jnp.maximum(jnp.max(-slope), jnp.max(x * jnp.abs(slope)))
