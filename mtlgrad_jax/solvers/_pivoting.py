"""Block principal pivoting: exchange every violated coordinate at once.

It needs a handful of steps whatever the size, which is what an accelerator wants, but it may cycle
when the matrix is singular; then it says so, and the active-set method takes over.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import _restricted


class _Pivot(NamedTuple):
    free: jax.Array  # (n,) bool
    x: jax.Array  # (n,)
    violated: jax.Array  # (n,) bool, on the wrong side: x < 0 where free, slope < 0 elsewhere
    unsolved: jax.Array  # (n,) bool, free and its equation does not hold to rounding
    num_steps: jax.Array  # () int32


def solve(quadratic: jax.Array, linear: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Solve min ½xᵀQx + cᵀx, x ≥ 0 by block exchanges (Júdice & Pires 1994).

    Args:
      quadratic: Q, shape `(n, n)`, positive semi-definite, diagonal of order one.
      linear: c, shape `(n,)`.

    Returns:
      x ≥ 0, whether it satisfies the optimality conditions to rounding, and the number of steps.
    """
    n = linear.shape[0]
    rho = 8 * jnp.finfo(quadratic.dtype).eps.item()
    max_steps = 6 + 2 * n.bit_length()  # about twice what full rank was seen to need; else it is a cycle

    def exchange(pivot):
        free = pivot.free ^ pivot.violated
        x = _restricted.minimize(quadratic, linear, free, None, rho)
        x = jnp.where(jnp.isfinite(x), x, -1)  # no factor: every coordinate counts as violated
        slope = dot(quadratic, x) + linear
        rounding = _restricted.rounding_error(quadratic, linear, x)
        return _Pivot(
            free=free,
            x=x,
            violated=jnp.where(free, x < 0, slope < -8 * rounding),
            unsolved=free & (jnp.abs(slope) > 4 * rounding),
            num_steps=pivot.num_steps + 1,
        )

    def unfinished(pivot):
        return jnp.any(pivot.violated) & (pivot.num_steps < max_steps)

    zero = jnp.zeros_like(linear)
    never = linear > jnp.inf
    none = jnp.sum(zero).astype(jnp.int32)  # varies over a mesh as the input does
    start = _Pivot(free=never, x=zero, violated=linear < 0, unsolved=never, num_steps=none)
    end = lax.while_loop(unfinished, exchange, start)
    return jnp.maximum(end.x, 0), ~jnp.any(end.violated | end.unsolved), end.num_steps
