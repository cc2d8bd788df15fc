"""The exact solver behind every program: pivot in blocks, and fall back on the active set."""

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import reciprocal
from mtlgrad_jax.solvers import _active_set, _pivoting


def solve(quadratic: jax.Array, linear: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solve min ½xᵀQx + cᵀx, x ≥ 0 for a scaled Q (unit diagonal or close).

    Args:
      quadratic: Q, shape `(n, n)`, positive semi-definite up to rounding.
      linear: c, shape `(n,)`.

    Returns:
      x, shape `(n,)`, and the number of steps of both methods.
    """
    x, solved, num_pivots = _pivoting.solve(quadratic, linear)

    def fall_back():
        strength = jnp.max(jnp.abs(linear))
        unit = reciprocal(strength)
        # Under vmap both branches run, so the fallback must also know by itself that it is not needed.
        point, num_insertions = _active_set.solve(quadratic, linear * unit, start=x * unit, needed=~solved)
        return point * strength, num_insertions

    x, num_insertions = lax.cond(solved, lambda: (x, 0 * num_pivots), fall_back)
    return x, num_pivots + num_insertions
