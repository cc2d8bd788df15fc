"""The active-set method: one coordinate in at a time, never uphill.

Lawson & Hanson's non-negative least squares; on the simplex program it is Wolfe's (1976) method
for the point of smallest norm, that is Frank–Wolfe that re-optimises over all active vertices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.solvers import _restricted
from mtlgrad_jax.solvers._full_precision import dot

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
    index = jnp.arange(n)
    rho = (8 + 2 * n) * jnp.finfo(quadratic.dtype).eps.item()

    def residual_at(x, slope):
        return jnp.maximum(jnp.max(-slope), jnp.max(x * jnp.abs(slope)))

    def advance(face):
        target = _restricted.minimize(quadratic, linear, face.free, face.x, rho)
        target = jnp.where(jnp.isfinite(target), target, 0)  # no factor: leave this face
        blocked = face.free & ~(target > 0)
        fall = face.x - target
        room = jnp.where(blocked, face.x / jnp.where(fall > 0, fall, 1), 1)
        length = jnp.minimum(jnp.min(room), 1)
        stopped = blocked & (room <= length)
        barred = face.barred | stopped
        free = face.free & ~stopped
        x = jnp.where(free, jnp.maximum(face.x + length * (target - face.x), 0), 0)

        slope = dot(quadratic, x) + linear
        tolerance = _restricted.rounding_error(quadratic, linear, x) / 4
        steepness = jnp.where(free | barred, jnp.inf, slope + tolerance)
        steepest = jnp.argmin(steepness)
        unblocked = ~jnp.any(blocked)
        arrived = unblocked & (steepness[steepest] >= 0)
        free = free | (unblocked & ~arrived & (index == steepest))

        residual = residual_at(x, slope)
        num_arrivals = face.num_arrivals + arrived.astype(jnp.int32)
        stationary = jnp.all((slope >= -tolerance) & ((x == 0) | (slope <= tolerance)))
        better = arrived & (residual < face.residual)
        return _Face(
            free=free,
            barred=barred & ~arrived,
            x=x,
            best=jnp.where(better, x, face.best),
            residual=jnp.where(better, residual, face.residual),
            num_arrivals=num_arrivals,
            done=arrived & (stationary | (num_arrivals >= MAX_ARRIVALS)),
            num_steps=face.num_steps + 1,
        )

    def unfinished(face):
        return ~face.done & (face.num_steps < 5 * n + 20)

    residual = residual_at(start, dot(quadratic, start) + linear)
    none = (0 * residual).astype(jnp.int32)  # varies over a mesh as the input does
    face = _Face(
        free=(start > 0) | ((index == jnp.argmin(linear)) & (none == 0)),
        barred=start < 0,
        x=start,
        best=start,
        residual=residual,
        num_arrivals=none,
        done=(none > 0) | ~jnp.asarray(needed),
        num_steps=none,
    )
    end = lax.while_loop(unfinished, advance, face)
    return end.best, end.num_steps
