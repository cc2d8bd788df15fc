"""The active-set method in twice the working precision: one coordinate in at a time, never uphill.

Lawson & Hanson's non-negative least squares; on the simplex program it is Wolfe's (1976) method
for the point of smallest norm, that is Frank–Wolfe that re-optimises over all active vertices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.solvers import _program, _restricted
from mtlgrad_jax.solvers._totals import first, some, total

MAX_ARRIVALS = 10


class _Face(NamedTuple):
    free: jax.Array  # (n,) bool
    barred: jax.Array  # (n,) bool, left since the last arrival: may not return, or rounding could cycle
    x: jax.Array  # (n,), feasible, zero outside `free`
    rest: jax.Array  # (n,), its rounding error
    arrived: jax.Array  # () bool, x is the minimum of the face
    best: jax.Array  # (n,), the x with the smallest value
    least: jax.Array  # (), that value
    num_arrivals: jax.Array  # () int32
    done: jax.Array  # () bool
    num_steps: jax.Array  # () int32


def solve(program: _program.Program, start: jax.Array, needed: jax.Array | bool = True, resolution: float = 1 / 64):
    """Solve a program by inserting the steepest coordinate and re-optimising.

    Factors are in working precision, slopes and values in twice that: what is left to gain is always known, and
    how fast it is gained depends on the factor only.

    Args:
      program: See `_program.Program`.
      start: A feasible point, shape `(n,)`.
      needed: If false, return `start` at once.
      resolution: Slopes and values below this many rounding errors of A count as zero.

    Returns:
      x, shape `(n,)`, and the number of steps, at most `5n + 20`.
    """
    matrix, vector = _program.matrix_and_vector(program)
    n = vector.shape[0]
    ridge = 8 * jnp.finfo(matrix.dtype).eps.item() * n**0.5

    def advance(face):
        point = _program.evaluate(program, face.x, face.rest)
        rounding = resolution * _program.rounding_error(matrix, vector, point.x)
        arrived = face.arrived
        face = _arrive(face, point, rounding)
        if program.share is not None:  # below this the rounding of the matrix itself decides
            face = face._replace(done=face.done | (arrived & (face.least <= total(point.x * rounding))))
        factor = _restricted.factorize(matrix, face.free, ridge)
        return _walk(face, point, _restricted.descend(matrix, factor, point.slope, face.free))

    def unfinished(face):
        return ~face.done & (face.num_steps < 5 * n + 20)

    end = lax.while_loop(unfinished, advance, _first_face(vector, start, needed))
    return end.best, end.num_steps


def _first_face(vector, start, needed):
    """Start on the coordinates that are positive, or the steepest at zero."""
    none = (0 * vector[0]).astype(jnp.int32)  # varies over a mesh as the input does
    is_steepest = first(vector == jnp.min(vector))
    return _Face(
        free=(start > 0) | (is_steepest & ~some(start > 0)),
        barred=start < 0,
        x=start,
        rest=0 * start,
        arrived=none > 0,
        best=start,
        least=0 * vector[0] + jnp.inf,
        num_arrivals=none,
        done=(none > 0) | ~jnp.asarray(needed),
        num_steps=none,
    )


def _walk(face, point, step):
    """Go to the minimum of the face or up to the first coordinate that would turn negative, which leaves the face."""
    x, rest = point.x, point.rest
    blocked = face.free & ~(x + step > 0)
    room = jnp.where(blocked, x / jnp.where(step < 0, -step, 1), 1)
    length = jnp.minimum(jnp.min(room), 1)
    stopped = blocked & (room <= length)
    free = face.free & ~stopped
    x, rest = jnp.where(free, x, 0), jnp.where(free, rest + length * step, 0)
    return face._replace(
        free=free,
        barred=face.barred | stopped,
        x=x,
        rest=jnp.maximum(rest, -x),
        arrived=~some(blocked),
        num_steps=face.num_steps + 1,
    )


def _arrive(face, point, tolerance):
    """At the minimum of a face let the steepest coordinate in, or stop if the last faces brought nothing."""
    steepness = jnp.where(face.free | face.barred, jnp.inf, point.slope + tolerance)
    steepest = jnp.min(steepness)
    complete = face.arrived & (steepest >= 0)
    inserted = face.arrived & ~complete & first(steepness == steepest)

    better = point.value < face.least
    num_arrivals = face.num_arrivals + complete.astype(jnp.int32)
    idle = ~(point.value < face.least - 4 * jnp.finfo(point.x.dtype).eps * jnp.abs(point.value))
    return face._replace(
        free=face.free | inserted,
        barred=face.barred & ~face.arrived,
        best=jnp.where(better, point.x, face.best),
        least=jnp.minimum(point.value, face.least),
        num_arrivals=num_arrivals,
        done=complete & (idle | (num_arrivals >= MAX_ARRIVALS)),
    )
