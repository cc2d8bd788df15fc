"""Non-negative least squares in Gram form: the one program behind all the others."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtlgrad_jax.ground.grams import dot, normalize_rows, reciprocal, round_lengths
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two
from mtlgrad_jax.solvers import _exact, _program, _restricted
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
    safe = jnp.where(finite, quadratic, 1)
    target = jnp.where(finite, linear, 0)
    x, num_steps = _solve(safe, target)
    gap = nnls_gap(*lax.stop_gradient((safe, target, x)))
    return Solution(jnp.where(finite, x, jnp.nan), jnp.where(finite, gap, jnp.inf), num_steps)


@jax.custom_jvp
def _solve(quadratic, linear):
    if linear.shape[0] <= 2:
        correlation, lengths = normalize_rows(quadratic)
        inverse = reciprocal(lengths)
        pull = linear * inverse
        x = jnp.maximum(-pull, 0) if linear.shape[0] == 1 else _pair(correlation[0, 1], pull)
        return x * inverse, jnp.zeros((), jnp.int32)
    scaled, units = round_lengths(quadratic)
    pull = linear * units
    exponent = exponent_of(jnp.max(jnp.abs(pull)))
    x, num_steps = _exact.solve(_program.Program(scaled, scale_by_power_of_two(pull, -exponent), None))
    return scale_by_power_of_two(x, exponent) * units, num_steps


@_solve.defjvp  # pyright: ignore[reportArgumentType]
def _move(primals, tangents):
    """Differentiate Qx + c = 0 on the coordinates that are positive."""
    quadratic, linear = primals
    quadratic_dot, linear_dot = tangents
    x, num_steps = _solve(quadratic, linear)
    scaled, units = round_lengths(lax.stop_gradient(quadratic))
    move = _restricted.differentiate(scaled, x > 0)
    x_dot = units * move(units * (dot(quadratic_dot, x) + linear_dot))
    return (x, num_steps), (x_dot, np.zeros((), jax.dtypes.float0))


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
