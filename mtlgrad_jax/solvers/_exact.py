"""The exact solver behind every program: Newton steps on a face that are projected, and walked where that fails.

A bold step goes to the minimum of the face, lets go of every coordinate that would turn negative and takes in every one
whose slope is negative, like block principal pivoting: a handful of steps whatever the size. But it is only taken if
the value falls, so it cannot cycle, whatever the rank; else one step is taken as the active-set method takes it (Lawson
& Hanson 1974; on the simplex program Wolfe's method of 1976): up to the first coordinate that would turn negative, and
at the minimum of a face one coordinate in. On the simplex with many coordinates the walk begins where a path through
the interior ends. Factors are in working precision, slopes and values in twice that: what is left to gain is always
known, and how fast it is gained depends on the factor only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.solvers import _interior, _products, _program

MANY = 64  # coordinates, from where on a walk along faces is too long


class _Face(NamedTuple):
    x: jax.Array  # (n,), not negative, zero where not free
    low: jax.Array  # (n,), a rounding error of x; zero without a root, where G itself is not known so well
    slope: jax.Array  # (n,)
    value: jax.Array  # ()
    free: jax.Array  # (n,) bool
    barred: jax.Array  # (n,) bool, left since the last arrival: may not return, or rounding could cycle
    bold: jax.Array  # () bool
    ridge: jax.Array  # (), what is added to the diagonal of a face, so that it has a factor whatever its rank
    left: jax.Array  # (), what the last step was to gain, twice, if it was on the last face; else infinite
    done: jax.Array  # () bool
    num_steps: jax.Array  # () int32


class _Step(NamedTuple):
    x: jax.Array  # (n,), where it leads
    low: jax.Array  # (n,)
    free: jax.Array  # (n,) bool, without the coordinates that left
    gain: jax.Array  # (), twice what it was to gain
    weakest: jax.Array  # (), of the factor, squared
    stopped: jax.Array  # () bool, by a coordinate that would have turned negative
    possible: jax.Array  # () bool, false if there was no factor


def solve(
    program: _program.Program, start: jax.Array | None = None, *, one_at_a_time: bool = False, resolution: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Solve a program in scaled coordinates.

    Args:
      program: See `_program.Program`.
      start: A feasible point, shape `(n,)`; zero by default.
      one_at_a_time: Take no bold steps.
      resolution: Slopes below a sixteenth, and values below a quarter, of this many rounding errors of A count as zero.

    Returns:
      x, shape `(n,)`, and the number of steps, at most `5n + 20`.
    """
    _, vector = _program.matrix_and_vector(program)
    rows = _program.digits(program)
    eps = jnp.finfo(vector.dtype).eps.item()
    first_ridge, least_ridge = _program.ridges(program)

    def lower(ridge):
        """Follow the slopes, whose noise a ridge has to cover: they fall with every step."""
        return ridge if program.root is None else jnp.maximum(ridge / 64, least_ridge)

    def advance(face):
        step = _newton(program, face)
        slope, value = _program.evaluate(program, rows, step.x, step.low)
        taken = step.possible & (~(face.bold & step.stopped) | (value < face.value))
        total = jnp.sum(step.x)
        rounding = eps * resolution * (total + jnp.abs(vector))
        downhill = ~step.free & (slope < -rounding / 16)
        wanted = downhill & ~face.barred
        steepest = slope == jnp.min(jnp.where(wanted, slope, jnp.inf))
        arrived = step.possible & ~step.stopped
        entering = wanted & jnp.where(face.bold, taken, arrived & steepest)
        complete = arrived & ~jnp.any(downhill)
        ahead = 16 * jnp.sum(jnp.where(step.free, slope * slope, 0)) / step.weakest  # twice what a further step gains
        floor = eps * resolution * total * total
        enough = eps * jnp.maximum(jnp.abs(value), floor / 16)
        finished = complete & (jnp.minimum(step.gain, ahead) <= enough)
        flat = jnp.all((slope >= -8 * rounding) & (~step.free | (slope <= 8 * rounding)))
        finished |= complete & flat & (step.gain > 15 / 16 * face.left)  # what a step hardly lowers is below the ridge
        finished |= taken & flat & ~jnp.any(downhill) & (step.gain <= enough)
        if program.share is not None:
            finished |= taken & flat & (value <= floor / 4)  # there the rounding of A itself decides
        return _Face(
            x=jnp.where(taken, step.x, face.x),
            low=jnp.where(taken, step.low, face.low),
            slope=jnp.where(taken, slope, face.slope),
            value=jnp.where(taken, value, face.value),
            free=jnp.where(taken, step.free | entering, face.free),
            barred=~face.bold & ~arrived & (face.barred | (face.free & ~step.free)),
            bold=jnp.where(face.bold, taken | ~step.possible, arrived & (not one_at_a_time)),
            ridge=jnp.where(step.possible, lower(face.ridge), 16 * face.ridge),
            left=jnp.where(complete, step.gain, jnp.inf),
            done=finished,
            num_steps=face.num_steps + 1,
        )

    def unfinished(face):
        return ~face.done & (face.num_steps < 5 * vector.size + 20)

    def attempt(face):
        """Go on until a bold step fails; from then on, from where the path through the interior ends."""
        failed = face.num_steps > 0
        x, num_steps = _interior.approach(program, rows, failed)
        other = _at(first, program, rows, x)._replace(num_steps=face.num_steps + num_steps)
        face = jax.tree.map(lambda a, b: jnp.where(failed, a, b), other, face)
        return lax.while_loop(lambda face: unfinished(face) & (face.bold | failed), advance, face)

    first = _at_zero(vector, one_at_a_time, first_ridge)
    first = first if start is None else _at(first, program, rows, start)
    many = vector.size >= MANY and program.share is not None and start is None and not one_at_a_time
    end = lax.while_loop(unfinished, attempt if many else advance, first)
    return end.x, end.num_steps


def _newton(program, face):
    """Go to the minimum of the face: projected if bold, else up to the first coordinate that would turn negative."""
    mask = face.free.astype(face.x.dtype)
    factor = _program.factorize(program, face.free, face.ridge)
    step = -factor.solve(face.slope * mask)
    possible = jnp.all(jnp.isfinite(step))
    step = jnp.where(possible, step, 0)
    outside = face.free & ~(face.x + step > 0)
    room = jnp.where(outside & ~face.bold, face.x / jnp.where(step < 0, -step, 1), 1)
    length = jnp.minimum(jnp.min(room), 1)
    free = face.free & ~(outside & (face.bold | (room <= length)))
    x, low = face.x + length * step, face.low
    if program.root is not None:
        x, error = _products.two_sum(face.x, length * step)
        x, low = _products.two_sum(x, jnp.where(free, error + low, 0))
    x = jnp.where(free, jnp.maximum(x, 0), 0)
    return _Step(x, low, free, -jnp.sum(step * face.slope), factor.weakest**2, jnp.any(outside), possible)


def _at_zero(vector, one_at_a_time, ridge):
    zero = 0 * vector  # varies over a mesh as the input does
    infinite = zero[0] + jnp.inf
    downhill = vector == jnp.min(vector) if one_at_a_time else vector < 0
    none = zero[0].astype(jnp.int32)
    return _Face(
        x=zero,
        low=zero,
        slope=vector,
        value=infinite,
        free=downhill,
        barred=zero > 0,
        bold=none == (1 if one_at_a_time else 0),
        ridge=zero[0] + ridge,
        left=infinite,
        done=none > 0,
        num_steps=none,
    )


def _at(face, program, rows, x):
    slope, value = _program.evaluate(program, rows, x, face.low)
    return face._replace(x=x, slope=slope, value=value, free=(x > 0) | (slope < 0))
