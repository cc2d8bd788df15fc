"""The one program behind all exact solvers, and its slope and value to twice the working precision."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import _products

EXPONENT = 2  # the entries of Q and s are below 2² = 4


class Program(NamedTuple):
    """A convex program over x ≥ 0, in the coordinates of rows whose lengths are between one and two.

    Without a share it is min ½xᵀQx + cᵀx. With one it is the program of smallest norm on a simplex in penalised form,

        min ½xᵀQx + (cᵀx)(sᵀx) + ½(1 − sᵀx)²

    in which c, in general zero, is what a measurement on J adds to Q. It is homogeneous apart from the scale of x, so
    that its solution is exact for every weight of the penalty, not in a limit. The penalty stays a vector of its own:
    added to Q, it would round away the last bits of Q.
    """

    quadratic: jax.Array  # Q (n, n), symmetric, positive semi-definite up to rounding, diagonal between one and four
    linear: Any  # c (n,), None for zero
    share: Any  # s (n,) or None, between zero and one, zero off the simplex


def matrix_and_vector(program: Program) -> tuple[jax.Array, jax.Array]:
    """Return A and b of the program as min ½xᵀAx + bᵀx, rounded."""
    quadratic, linear, share = program
    if share is None:
        return quadratic, linear
    return quadratic + share[:, None] * share[None, :], -share


def digits(program: Program) -> _products.Digits:
    """Return what `evaluate` multiplies with."""
    quadratic, _, share = program
    rows = quadratic if share is None else jnp.concatenate([quadratic, share[None, :]])
    return _products.of_matrix(rows, EXPONENT)


def evaluate(program: Program, rows: _products.Digits, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the slope, shape `(n,)`, and the value of the program at x."""
    _, linear, share = program
    high, low = _products.product(rows, x)
    if share is None:
        high, error = _products.two_sum(high, linear)
        slope = high + (low + error)
        return slope, dot(x, slope + linear) / 2
    deficit, missing = _products.two_sum(high[-1], -jnp.ones_like(high[-1]))  # sᵀx − 1
    deficit = deficit + (missing + low[-1])
    high, error = _products.two_sum(high[:-1], share * deficit)
    slope = high + (low[:-1] + error)
    if linear is not None:
        slope = slope + (share * dot(linear, x) + linear * (1 + deficit))
    return slope, (dot(x, slope) - deficit) / 2
