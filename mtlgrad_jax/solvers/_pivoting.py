"""Block principal pivoting: exchange every violated coordinate at once.

It needs a handful of steps whatever the size, which is what an accelerator wants, but it may cycle
when the matrix is singular; then it says so, and the active-set method takes over.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.solvers import _restricted
from mtlgrad_jax.solvers._full_precision import dot

PATIENCE = 3  # full exchanges without fewer violations before giving up


class _Pivot(NamedTuple):
    free: jax.Array  # (n,) bool
    x: jax.Array  # (n,)
    violated: jax.Array  # (n,) bool
    resolved: jax.Array  # () bool, the equations on `free` hold to rounding
    fewest: jax.Array  # () int32, smallest number of violations so far
    patience: jax.Array  # () int32
    num_steps: jax.Array  # () int32


def solve(quadratic: jax.Array, linear: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Solve min ½xᵀQx + cᵀx, x ≥ 0 by block exchanges (Júdice & Pires 1994).

    Args:
      quadratic: Q, shape `(n, n)`, positive semi-definite, diagonal of order one.
      linear: c, shape `(n,)`.

    Returns:
      x ≥ 0, whether it satisfies the optimality conditions to rounding, and the number of steps.
    """
    rho = 8 * jnp.finfo(quadratic.dtype).eps.item()
    zero = jnp.zeros_like(linear)

    def exchange(pivot):
        free = pivot.free ^ pivot.violated
        x = _restricted.minimize(quadratic, linear, free, zero, rho)
        x = jnp.where(jnp.isfinite(x), x, -1)  # no factor: every coordinate counts as violated
        slope = dot(quadratic, x) + linear
        rounding = _restricted.rounding_error(quadratic, linear, x)
        count = jnp.sum(pivot.violated, dtype=jnp.int32)
        return _Pivot(
            free=free,
            x=x,
            violated=jnp.where(free, x < 0, slope < -8 * rounding),
            resolved=jnp.all(~free | (jnp.abs(slope) <= 4 * rounding)),
            fewest=jnp.minimum(count, pivot.fewest),
            patience=jnp.where(count < pivot.fewest, PATIENCE, pivot.patience - 1),
            num_steps=pivot.num_steps + 1,
        )

    def unfinished(pivot):
        return jnp.any(pivot.violated) & (pivot.patience > 0)

    none = jnp.sum(zero).astype(jnp.int32)  # varies over a mesh as the input does
    start = _Pivot(
        free=linear > jnp.inf,
        x=zero,
        violated=linear < 0,
        resolved=none == 0,
        fewest=none + linear.shape[0] + 1,
        patience=none + PATIENCE,
        num_steps=none,
    )
    end = lax.while_loop(unfinished, exchange, start)
    return jnp.maximum(end.x, 0), end.resolved & ~jnp.any(end.violated), end.num_steps
