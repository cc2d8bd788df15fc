"""Block principal pivoting: exchange every violated coordinate at once.

It needs a handful of steps whatever the size, which is what an accelerator wants, but it may cycle
when the matrix is singular; then it says so, and other methods take over.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import _program, _restricted
from mtlgrad_jax.solvers._totals import some, total


class _Pivot(NamedTuple):
    free: jax.Array  # (n,) bool
    solve: Callable  # on the free coordinates
    x: jax.Array  # (n,)
    slope: jax.Array  # (n,)
    violated: jax.Array  # (n,) bool, on the wrong side: x < 0 where free, slope < 0 elsewhere
    num_steps: jax.Array  # () int32


def solve(matrix: jax.Array, vector: jax.Array):
    """Solve min ½xᵀAx + bᵀx, x ≥ 0 by block exchanges (Júdice & Pires 1994).

    Args:
      matrix: A, shape `(n, n)`, positive semi-definite, diagonal of order one.
      vector: b, shape `(n,)`.

    Returns:
      x ≥ 0, whether it satisfies the optimality conditions to rounding, an estimate of what is left to gain in
      the objective for a b of order one, and the number of steps.
    """
    ridge = 8 * jnp.finfo(matrix.dtype).eps.item()
    max_steps = 6 + 2 * vector.size.bit_length()  # about twice what full rank was seen to need; else it is a cycle

    def exchange(pivot):
        free = pivot.free ^ pivot.violated
        solve = _restricted.factorize(matrix, free, ridge)
        x = -solve(vector)
        x = jnp.where(jnp.isfinite(x), x, -1)  # no factor: every coordinate counts as violated
        slope = dot(matrix, x) + vector
        rounding = _program.rounding_error(matrix, vector, x)
        violated = jnp.where(free, x < 0, slope < -8 * rounding)
        return _Pivot(free, solve, x, slope, violated, pivot.num_steps + 1)

    def unfinished(pivot):
        return some(pivot.violated) & (pivot.num_steps < max_steps)

    zero = 0 * vector
    none = zero[0].astype(jnp.int32)  # varies over a mesh as the input does
    never = vector > jnp.inf
    empty = jax.tree.map(
        lambda leaf: jnp.broadcast_to(zero[0] + 1, leaf.shape),
        jax.eval_shape(_restricted.factorize, matrix, never, ridge),
    )
    end = lax.while_loop(unfinished, exchange, _Pivot(never, empty, zero, vector, vector < 0, none))
    return *_refine(matrix, vector, end), end.num_steps


def _refine(matrix, vector, end):
    """Take the step of iterative refinement that tells how well the face is conditioned, and judge where it leads."""
    correction = jnp.where(end.free, end.solve(end.slope), 0)
    x = end.x - correction
    slope = dot(matrix, x) + vector
    rounding = _program.rounding_error(matrix, vector, x)
    wrong = jnp.where(end.free, (x < 0) | (jnp.abs(slope) > 4 * rounding), slope < -8 * rounding)
    doubt = jnp.abs(total(end.slope * correction)) + total(jnp.where(end.free, 0, jnp.maximum(-slope, 0)))
    solved = ~some(wrong | end.violated)
    return jnp.where(x > 0, x, 0), solved, doubt
