"""Block principal pivoting: exchange every violated coordinate at once.

It needs a handful of steps whatever the size, which is what an accelerator wants, but it may cycle
when the matrix is singular; then it says so, and other methods take over.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import _program, _restricted

MAX_IDLE = 5  # steps without fewer violations; it is a cycle then


class _Pivot(NamedTuple):
    free: jax.Array  # (n,) bool
    x: jax.Array  # (n,)
    violated: jax.Array  # (n,) bool, on the wrong side: x < 0 where free, slope < 0 elsewhere
    unsolved: jax.Array  # () bool, an equation of a free coordinate does not hold to rounding
    doubt: jax.Array  # (), estimate of what is left to gain
    fewest: jax.Array  # () int32, the smallest number of violated coordinates so far
    num_idle: jax.Array  # () int32, steps since it fell
    num_steps: jax.Array  # () int32


def solve(matrix: jax.Array, vector: jax.Array):
    """Solve min ½xᵀAx + bᵀx, x ≥ 0 by block exchanges (Júdice & Pires 1994).

    Args:
      matrix: A, shape `(n, n)`, positive semi-definite, diagonal of order one.
      vector: b, shape `(n,)`.

    Returns:
      x ≥ 0, whether it satisfies the optimality conditions to rounding, an estimate of what is left to gain in
      the objective, and the number of steps.
    """
    ridge = 8 * jnp.finfo(matrix.dtype).eps.item()

    def exchange(pivot):
        free = pivot.free ^ pivot.violated
        factor = _restricted.factorize(matrix, free, ridge)
        first = -factor(vector)
        residual = dot(matrix, first) + vector
        correction = factor(residual)
        x = first - correction
        x = jnp.where(jnp.isfinite(x), x, -1)  # no factor: every coordinate counts as violated
        slope = dot(matrix, x) + vector
        rounding = _program.rounding_error(matrix, vector, x)
        violated = jnp.where(free, x < 0, slope < -8 * rounding)
        num_violated = jnp.sum(violated, dtype=jnp.int32)
        return _Pivot(
            free=free,
            x=x,
            violated=violated,
            unsolved=jnp.any(free & (jnp.abs(slope) > 4 * rounding)),
            doubt=jnp.abs(dot(residual, correction)) + jnp.max(jnp.where(free, 0, -slope), initial=0),
            fewest=jnp.minimum(num_violated, pivot.fewest),
            num_idle=jnp.where(num_violated < pivot.fewest, 0, pivot.num_idle + 1),
            num_steps=pivot.num_steps + 1,
        )

    def unfinished(pivot):
        return jnp.any(pivot.violated) & (pivot.num_idle < MAX_IDLE)

    zero = jnp.zeros_like(vector)
    none = (0 * vector[0]).astype(jnp.int32)  # varies over a mesh as the input does
    never = vector > jnp.inf
    start = _Pivot(never, zero, vector < 0, never[0], zero[0], none + vector.shape[0] + 1, none, none)
    end = lax.while_loop(unfinished, exchange, start)
    return jnp.maximum(end.x, 0), ~(jnp.any(end.violated) | end.unsolved), end.doubt, end.num_steps
