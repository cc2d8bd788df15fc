"""Non-negative least squares in Gram form: the one program behind all the others."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import normalize_rows, reciprocal
from mtlgrad_jax.solvers import _exact
from mtlgrad_jax.solvers.certificates import nnls_gap
from mtlgrad_jax.typing import Solution


@jax.jit
def nnls(quadratic: jax.Array, linear: jax.Array) -> Solution:
    """Solve a non-negative least-squares problem exactly.

    Projections onto the dual cone, GEM's and UPGrad's programs are of this form, with Q = JJᵀ.
    Rows are scaled to length one first, so a row may be arbitrarily shorter than another.

    min ½xᵀQx + cᵀx,  x ≥ 0

    Args:
      quadratic: Q, shape `(n, n)`, float32 or float64, positive semi-definite.
      linear: c, shape `(n,)`, same dtype; in the range of Q, as it is when c = Jb.

    Returns:
      `Solution(x, gap, num_steps)`: x ≥ 0, shape `(n,)`; `gap` as in `certificates.nnls_gap`.
      A zero row of Q gets xᵢ = 0. Input that is not finite gives NaN and an infinite gap.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> solution = mtl.solvers.nnls(jnp.array([[4.0, 1.0], [1.0, 4.0]]), jnp.array([-4.0, 3.0]))
      >>> solution.x
      Array([1., 0.], dtype=float32)

    References:
      Lawson & Hanson, "Solving Least Squares Problems" (1974); Júdice & Pires, "A block principal
      pivoting algorithm for large-scale strictly monotone linear complementarity problems" (1994).
    """
    _check(quadratic, linear)
    finite = jnp.all(jnp.isfinite(quadratic)) & jnp.all(jnp.isfinite(linear))
    safe = jnp.where(finite, quadratic, jnp.eye(linear.shape[0], dtype=quadratic.dtype))
    target = jnp.where(finite, linear, 0)

    correlation, lengths = normalize_rows(safe)
    inverse = reciprocal(lengths)
    pull = target * inverse
    if linear.shape[0] == 1:
        x, num_steps = jnp.maximum(-pull, 0), jnp.zeros((), jnp.int32)
    elif linear.shape[0] == 2:
        x, num_steps = _pair(correlation[0, 1], pull), jnp.zeros((), jnp.int32)
    else:
        x, num_steps = _exact.solve(correlation, pull)
    x = x * inverse
    gap = nnls_gap(safe, target, x)
    return Solution(jnp.where(finite, x, jnp.nan), jnp.where(finite, gap, jnp.inf), num_steps)


def _pair(cosine, pull):
    """Solve the program of two unit rows: the interior point if it is one, else the better edge."""
    determinant = (1 - cosine) * (1 + cosine)
    inside = -(pull - cosine * pull[::-1])
    edges = jnp.where(jnp.arange(2) == jnp.argmin(pull), jnp.maximum(-pull, 0), 0)
    both = jnp.all(inside > 0) & (determinant > 0)
    return jnp.where(both, inside / jnp.where(both, determinant, 1), edges)


def _check(quadratic, linear):
    if linear.ndim != 1 or quadratic.shape != 2 * linear.shape:
        raise ValueError(
            f"nnls expected a quadratic of shape (n, n) and a linear of shape (n,), got {quadratic.shape} and "
            f"{linear.shape}; batch with jax.vmap."
        )
