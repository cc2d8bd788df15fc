"""The exact solver behind every program: pivot in blocks, and fall back on the active set."""

import jax

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
    x, num_insertions = _active_set.solve(quadratic, linear, start=x, needed=~solved)
    return x, num_pivots + num_insertions
