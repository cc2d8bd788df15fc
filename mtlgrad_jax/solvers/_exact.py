"""The exact solver behind every program: Newton steps on a face that are projected, and walked where that fails.

A bold step goes to the minimum of the face, lets go of every coordinate that would turn negative and takes in every one
whose slope is negative, like block principal pivoting: a handful of steps whatever the size. But it is only taken if
the value falls, so it cannot cycle, whatever the rank; else one step is taken as the active-set method takes it (Lawson
& Hanson 1974; on the simplex program Wolfe's method of 1976): up to the first coordinate that would turn negative, and
at the minimum of a face one coordinate in. On the simplex with many coordinates the walk begins where a path through
the interior ends. Factors are in working precision, slopes and values in twice that: what is left to gain is always
known, and how fast it is gained depends on the factor only.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.leaves import choose
from mtlgrad_jax.solvers import _interior, _products, _program
from mtlgrad_jax.solvers._packed_loop import while_loop

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
    slope: jax.Array  # (n,), there
    value: jax.Array  # ()
    gain: jax.Array  # (), twice what it was to gain
    weakest: jax.Array  # (), of the factor, squared
    stopped: jax.Array  # () bool, by a coordinate that would have turned negative
    possible: jax.Array  # () bool, false if there was no factor


class _Terms(NamedTuple):
    """What stays the same from step to step."""

    program: _program.Program
    rows: tuple[_products.Digits, ...]  # what `_program.evaluate` multiplies with
    vector: jax.Array  # (n,), b
    unit: float  # a rounding error of A, times the resolution
    ridges: tuple[float, float]  # the first one and the least
    one_at_a_time: bool


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
    unit, ridges = jnp.finfo(vector.dtype).eps.item() * resolution, _program.ridges(program)
    terms = _Terms(program, _program.digits(program), vector, unit, ridges, one_at_a_time)
    first = _at_zero(vector, one_at_a_time, ridges[0])
    first = first if start is None else _at(first, terms, start)
    many = vector.size >= MANY and program.share is not None and start is None and not one_at_a_time
    advance = partial(_attempt, terms, first) if many else partial(_advance, terms)
    end = while_loop(_unfinished, advance, first)
    return end.x, end.num_steps


def _unfinished(face):
    return ~face.done & (face.num_steps < 5 * face.x.size + 20)


def _attempt(terms, first, face):
    """Go on until a bold step fails; from then on, from where the path through the interior ends."""
    failed = face.num_steps > 0
    x, num_steps = _interior.approach(terms.program, terms.rows, failed)
    other = _at(first, terms, x)._replace(num_steps=face.num_steps + num_steps)
    face = choose(failed, other, face)
    return while_loop(lambda face: _unfinished(face) & (face.bold | failed), partial(_advance, terms), face)


def _advance(terms, face):
    """Take a step, or refuse it, and say what comes next."""
    step = _newton(terms, face)
    taken = step.possible & (~(face.bold & step.stopped) | (step.value < face.value))
    arrived = step.possible & ~step.stopped
    rounding = terms.unit * (jnp.sum(step.x) + jnp.abs(terms.vector))
    downhill = ~step.free & (step.slope < -rounding / 16)
    wanted = downhill & ~face.barred
    steepest = step.slope == jnp.min(jnp.where(wanted, step.slope, jnp.inf))
    entering = wanted & jnp.where(face.bold, taken, arrived & steepest)
    complete = arrived & ~jnp.any(downhill)
    return _Face(
        x=jnp.where(taken, step.x, face.x),
        low=jnp.where(taken, step.low, face.low),
        slope=jnp.where(taken, step.slope, face.slope),
        value=jnp.where(taken, step.value, face.value),
        free=jnp.where(taken, step.free | entering, face.free),
        barred=~face.bold & ~arrived & (face.barred | (face.free & ~step.free)),
        bold=jnp.where(face.bold, taken | ~step.possible, arrived & (not terms.one_at_a_time)),
        ridge=jnp.where(step.possible, _lower(terms, face.ridge), 16 * face.ridge),
        left=jnp.where(complete, step.gain, jnp.inf),
        done=_is_last(terms, face.left, step, taken, downhill, rounding),
        num_steps=face.num_steps + 1,
    )


def _lower(terms, ridge):
    """Let the ridge follow the slopes, whose noise it has to cover: they fall with every step."""
    return ridge if terms.program.root is None else jnp.maximum(ridge / 64, terms.ridges[1])


def _is_last(terms, left, step, taken, downhill, rounding):
    """Tell whether what is left to gain is below what rounding hides."""
    finished = ~jnp.any(downhill)
    complete = step.possible & ~step.stopped & finished
    flat = jnp.all((step.slope >= -8 * rounding) & (~step.free | (step.slope <= 8 * rounding)))
    ahead = 16 * jnp.sum(jnp.where(step.free, step.slope**2, 0)) / step.weakest  # twice what a further step gains
    floor = terms.unit * jnp.sum(step.x) ** 2
    enough = jnp.finfo(floor.dtype).eps.item() * jnp.maximum(jnp.abs(step.value), floor / 16)
    last = complete & (jnp.minimum(step.gain, ahead) <= enough)
    last |= complete & flat & (step.gain > 15 / 16 * left)  # what a step hardly lowers is below the ridge
    last |= taken & flat & finished & (step.gain <= enough)
    if terms.program.share is not None:
        last |= taken & flat & (step.value <= floor / 4)  # there the rounding of A itself decides
    return last


def _newton(terms, face):
    """Go to the minimum of the face: projected if bold, else up to the first coordinate that would turn negative."""
    mask = face.free.astype(face.x.dtype)
    factor = _program.factorize(terms.program, face.free, face.ridge)
    move = -factor.solve(face.slope * mask)
    possible = jnp.all(jnp.isfinite(move))
    move = jnp.where(possible, move, 0)
    outside = face.free & ~(face.x + move > 0)
    room = jnp.where(outside & ~face.bold, face.x / jnp.where(move < 0, -move, 1), 1)
    length = jnp.minimum(jnp.min(room), 1)
    free = face.free & ~(outside & (face.bold | (room <= length)))
    x, low = face.x + length * move, face.low
    if terms.program.root is not None:
        x, error = _products.two_sum(face.x, length * move)
        x, low = _products.two_sum(x, jnp.where(free, error + low, 0))
    x = jnp.where(free, jnp.maximum(x, 0), 0)
    slope, value = _program.evaluate(terms.program, terms.rows, x, low)
    gain = -jnp.sum(move * face.slope)
    return _Step(x, low, free, slope, value, gain, factor.weakest**2, jnp.any(outside), possible)


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


def _at(face, terms, x):
    slope, value = _program.evaluate(terms.program, terms.rows, x, face.low)
    return face._replace(x=x, slope=slope, value=value, free=(x > 0) | (slope < 0))
