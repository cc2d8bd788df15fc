"""The one program behind all exact solvers, and its slope and value to twice the working precision."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import _factor, _products, _restricted

EXPONENT = 2  # the entries of Q and s are below 2² = 4


class Program(NamedTuple):
    """A convex program over x ≥ 0, in the coordinates of rows whose lengths are between one and two.

    Without a share it is min ½xᵀQx + cᵀx. With one it is the program of smallest norm on a simplex in penalised form,

        min ½xᵀQx + ½(1 − sᵀx)²

    It is homogeneous apart from the scale of x, so that its solution is exact for every weight of the penalty, not in a
    limit. The penalty stays a vector of its own: added to Q, it would round away the last bits of Q. So does a root:
    the last bits of its product are those of what is √ε as long as the longest row.
    """

    quadratic: jax.Array  # Q (n, n), symmetric, positive semi-definite up to rounding, diagonal between one and four
    linear: Any  # c (n,), None with a share
    share: Any  # s (n,) or None, between zero and one, zero off the simplex
    root: Any = None  # R (n, n) or None, with Q = RRᵀ, which counts in place of the rounded Q


def matrix_and_vector(program: Program) -> tuple[jax.Array, jax.Array]:
    """Return A and b of the program as min ½xᵀAx + bᵀx, rounded."""
    quadratic, linear, share, _ = program
    if share is None:
        return quadratic, linear
    return quadratic + share[:, None] * share[None, :], -share


def ridges(program: Program) -> tuple[float, float]:
    """Return what is added to the diagonal of a face at first, and at least."""
    n, eps = program.quadratic.shape[0], jnp.finfo(program.quadratic.dtype).eps.item()
    first = 4 * eps * n**0.5
    return first, first if program.root is None else first**2


def factorize(program: Program, free: jax.Array, ridge: jax.Array) -> _factor.Factor:
    """Factorise A + ridge·I on a face, from the root if there is one."""
    if program.root is None:
        return _restricted.factorize(matrix_and_vector(program)[0], free, ridge)
    return _restricted.factorize_root(jnp.concatenate([program.root, program.share[:, None]], axis=1), free, ridge)


def digits(program: Program) -> tuple[_products.Digits, ...]:
    """Return what `evaluate` multiplies with, one factor after the other."""
    quadratic, _, share, root = program
    first = quadratic if root is None else root.T
    rows = first if share is None else jnp.concatenate([first, share[None, :]])
    if root is None:
        return (_products.of_matrix(rows, EXPONENT),)
    return tuple(_products.of_matrix(factor, EXPONENT, _products.EXACT) for factor in (rows, root))


def evaluate(
    program: Program, rows: tuple[_products.Digits, ...], x: jax.Array, low: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the slope, shape `(n,)`, and the value of the program at x, with a root at x + low."""
    _, linear, share, root = program
    high, rest = _products.product(rows[0], x) if root is None else _products.product_of_sum(rows[0], x, low)
    if share is None:
        high, error = _products.two_sum(high, linear)
        slope = high + (rest + error)
        return slope, dot(x, slope + linear) / 2
    deficit, missing = _products.two_sum(high[-1], -jnp.ones_like(high[-1]))  # sᵀx − 1
    deficit = deficit + (missing + rest[-1])
    direction, (high, rest) = high[:-1], (high[:-1], rest[:-1])
    if root is not None:
        high, rest = _products.product_of_sum(rows[1], high, rest)
    high, error = _products.two_sum(high, share * deficit)
    slope = high + (rest + error)
    if root is not None:
        return slope, (dot(direction, direction) + deficit * deficit) / 2
    return slope, (dot(x, slope) - deficit) / 2
