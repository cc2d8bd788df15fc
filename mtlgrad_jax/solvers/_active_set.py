"""The active-set method in twice the working precision: one coordinate in at a time, never uphill.

Lawson & Hanson's non-negative least squares; on the simplex program it is Wolfe's (1976) method
for the point of smallest norm, that is Frank–Wolfe that re-optimises over all active vertices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import _program, _restricted

MAX_ARRIVALS = 10


class _Face(NamedTuple):
    free: jax.Array  # (n,) bool
    barred: jax.Array  # (n,) bool, left since the last arrival: may not return, or rounding could cycle
    point: _program.Point  # feasible, zero outside `free`
    best: _program.Point  # the one with the smallest value
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
        factor = _restricted.factorize(matrix, face.free, ridge)
        step = _restricted.descend(matrix, factor, face.point.slope, face.free)
        face, arrived = _walk(program, face, step)
        face = _arrive(face, arrived, resolution * _program.rounding_error(matrix, vector, face.point.x))
        # Below this the rounding of the matrix itself decides.
        unknown = dot(face.best.x, dot(jnp.abs(matrix), face.best.x)) * jnp.finfo(matrix.dtype).eps * resolution
        return face._replace(done=face.done | (arrived & (face.best.value <= unknown) & (program.share is not None)))

    def unfinished(face):
        return ~face.done & (face.num_steps < 5 * n + 20)

    end = lax.while_loop(unfinished, advance, _first_face(program, vector, start, needed))
    return end.best.x, end.num_steps


def _first_face(program, vector, start, needed):
    """Start on the coordinates that are positive, and the steepest at zero."""
    point = _program.evaluate(program, start, 0 * start)
    none = (0 * point.value).astype(jnp.int32)  # varies over a mesh as the input does
    is_steepest = jnp.arange(vector.shape[0]) == jnp.argmin(vector)
    empty = ~jnp.any(start > 0)
    return _Face(
        free=(start > 0) | (is_steepest & empty),
        barred=start < 0,
        point=point,
        best=point,
        num_arrivals=none,
        done=(none > 0) | ~jnp.asarray(needed),
        num_steps=none,
    )


def _walk(program, face, step):
    """Go to the minimum of the face or up to the first coordinate that would turn negative, which leaves the face."""
    x, rest = face.point.x, face.point.rest
    blocked = face.free & ~(x + step > 0)
    room = jnp.where(blocked, x / jnp.where(step < 0, -step, 1), 1)
    length = jnp.minimum(jnp.min(room), 1)
    stopped = blocked & (room <= length)
    free = face.free & ~stopped
    x, rest = jnp.where(free, x, 0), jnp.where(free, rest + length * step, 0)
    point = _program.evaluate(program, x, jnp.maximum(rest, -x))
    return face._replace(free=free, barred=face.barred | stopped, point=point), ~jnp.any(blocked)


def _arrive(face, arrived, tolerance):
    """At the minimum of a face let the steepest coordinate in, or stop if the last faces brought nothing."""
    point, best = face.point, face.best
    steepness = jnp.where(face.free | face.barred, jnp.inf, point.slope + tolerance)
    steepest = jnp.argmin(steepness)
    complete = arrived & (steepness[steepest] >= 0)
    inserted = arrived & ~complete & (jnp.arange(point.x.shape[0]) == steepest)

    gain = best.value - point.value
    num_arrivals = face.num_arrivals + complete.astype(jnp.int32)
    idle = gain <= 4 * jnp.finfo(point.x.dtype).eps * jnp.abs(best.value)
    better = gain > 0
    return face._replace(
        free=face.free | inserted,
        barred=face.barred & ~arrived,
        best=jax.tree.map(lambda new, old: jnp.where(better, new, old), point, best),
        num_arrivals=num_arrivals,
        done=complete & (idle | (num_arrivals >= MAX_ARRIVALS)),
        num_steps=face.num_steps + 1,
    )
