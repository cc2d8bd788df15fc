"""The one program behind all exact solvers, and its slope and value to twice the working precision."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import _twofold
from mtlgrad_jax.solvers._totals import total


class Program(NamedTuple):
    """A convex program over x ≥ 0, in the coordinates of rows whose lengths are between one and two.

    Without a share it is min ½xᵀQx + cᵀx. With one it is the program of smallest norm on a simplex in penalised form,

        min ½xᵀQx + (cᵀx)(sᵀx) + ½(1 − sᵀx)²

    in which c, zero in general, is what a measurement on J adds to Q. It is homogeneous apart from the scale of x, so
    that its solution is exact for every weight of the penalty, not in a limit. The penalty stays a vector of its own:
    added to Q, it would round away the last bits of Q.
    """

    quadratic: jax.Array  # Q (n, n), symmetric, positive semi-definite up to rounding, diagonal between one and four
    linear: jax.Array  # c (n,)
    share: jax.Array | None  # s (n,), between zero and one, zero off the simplex


class Point(NamedTuple):
    """A point as a sum of two floats, its slope and its value."""

    x: jax.Array  # (n,), not negative
    rest: jax.Array  # (n,), below the rounding error of x
    slope: jax.Array  # (n,)
    value: jax.Array  # ()


def matrix_and_vector(program: Program) -> tuple[jax.Array, jax.Array]:
    """Return A and b of the program as min ½xᵀAx + bᵀx, rounded."""
    quadratic, linear, share = program
    if share is None:
        return quadratic, linear
    return quadratic + share[:, None] * share[None, :], -share


def evaluate(program: Program, x: jax.Array, rest: jax.Array) -> Point:
    """Return x + rest with its slope and value."""
    quadratic, linear, share = program
    x, rest = _twofold.two_sum(x, rest)
    rows = quadratic if share is None else jnp.concatenate([quadratic, share[None, :]])
    high, low = _twofold.dot(rows, x)
    low = low + dot(rows, rest)
    if share is None:
        high, error = _twofold.two_sum(high, linear)
        slope = high + (low + error)
        return Point(x, rest, slope, total(x * (slope + linear)) / 2)
    deficit, missing = _twofold.two_sum(high[-1], -jnp.ones_like(high[-1]))  # sᵀx − 1
    deficit = deficit + (missing + low[-1])
    tilt = total(linear * x)
    high, error = _twofold.two_sum(high[:-1], share * deficit)
    slope = high + (low[:-1] + error + (share * tilt + linear * (1 + deficit)))
    return Point(x, rest, slope, (total(x * slope) - deficit) / 2)


def rounding_error(matrix: jax.Array, vector: jax.Array, x: jax.Array) -> jax.Array:
    """Bound, up to a small factor, the rounding error of each component of Ax + b in working precision."""
    eps = jnp.finfo(matrix.dtype).eps
    return eps * (dot(jnp.abs(matrix), jnp.abs(x)) + jnp.abs(vector))
