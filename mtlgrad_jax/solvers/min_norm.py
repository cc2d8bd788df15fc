"""The point of smallest norm in a hull of gradients plus a cone of gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from mtlgrad_jax.ground.grams import check_gram, dot, reciprocal, round_lengths, without_scale
from mtlgrad_jax.solvers import _exact, _program, _restricted
from mtlgrad_jax.solvers.certificates import min_norm_gap
from mtlgrad_jax.typing import Gram, Solution


def min_norm(gram: Gram, num_simplex: int | None = None) -> Solution:
    """Find the shortest vector of a convex hull plus a cone, exactly.

    All rows on the simplex is MGDA; one row on it is the primary/auxiliary program; anything
    between is several primaries with auxiliaries.

    min ½‖Σ αᵢgᵢ + Σ λⱼhⱼ‖²,  α ∈ Δ on the first `num_simplex` rows, λ ≥ 0 on the rest

    Args:
      gram: G = JJᵀ, shape `(T, T)`, float32 or float64. Only ratios of its entries matter.
      num_simplex: How many of the first rows are on the simplex, 1 to T; all by default. It may be traced.

    Returns:
      `Solution(x, gap, num_steps)`: the weights, shape `(T,)`, those of the simplex rows summing to
      one; the certificate of `certificates.min_norm_gap`; zero steps for T ≤ 2 (closed forms).
      A zero row on the simplex gets all the weight (u = 0: that task is stationary), shared if
      there are several; a zero row outside gets none. Input that is not finite gives NaN and an
      infinite gap.

    Raises:
      ValueError: If `gram` is not square or `num_simplex` is not between 1 and T.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.solvers.min_norm(task_grads @ task_grads.T).x
      Array([0.6, 0.4], dtype=float32)

    References:
      Wolfe, "Finding the nearest point in a polytope" (1976); Désidéri, "Multiple-gradient descent
      algorithm" (2012); Su, scientific-spaces 8896 (13)–(17) and 8907 (1)–(6), (9).
    """
    num_tasks = check_gram(gram)
    return _certified(gram, check_num_simplex(num_simplex, num_tasks))


@jax.jit
def _certified(gram, num_simplex):
    on_simplex = jnp.arange(gram.shape[0]) < num_simplex
    finite = jnp.all(jnp.isfinite(gram))
    safe = jnp.where(finite, gram, 1)
    weights, num_steps = _solve(safe, on_simplex)
    gap = min_norm_gap(lax.stop_gradient(safe), lax.stop_gradient(weights), num_simplex)
    return Solution(jnp.where(finite, weights, jnp.nan), jnp.where(finite, gap, jnp.inf), num_steps)


@jax.custom_jvp
def _solve(gram, on_simplex):
    no_steps = jnp.zeros((), jnp.int32)
    if gram.shape[0] == 1:
        return jnp.ones_like(gram[0]), no_steps
    if gram.shape[0] == 2:
        return jnp.where(on_simplex[1], _segment(gram), _half_space(gram)), no_steps
    program, ratio = penalized(gram, on_simplex)
    x, num_steps = _exact.solve(program)
    return scale_to_simplex(x * ratio, on_simplex), num_steps


@_solve.defjvp  # pyright: ignore[reportArgumentType]
def _move(primals, tangents):
    """Differentiate Gw = μ·1, Σw = 1 (both on the simplex) on the rows whose weights are positive."""
    gram, on_simplex = primals
    weights, num_steps = _solve(gram, on_simplex)
    program, ratio = penalized(lax.stop_gradient(gram), on_simplex)
    matrix, _ = _program.matrix_and_vector(program)
    _, units = round_lengths(lax.stop_gradient(gram))
    unit = jnp.max(jnp.where(on_simplex, units, 0))
    x_dot = _restricted.differentiate(matrix, weights > 0)(units * unit * dot(tangents[0], weights))
    weights_dot = ratio * x_dot - weights * dot(program.share, x_dot)
    return (weights, num_steps), (weights_dot, np.zeros((), jax.dtypes.float0))


def scale_to_simplex(weights, on_simplex):
    """Scale weights so that those on the simplex sum to one."""
    total = jnp.sum(jnp.where(on_simplex, weights, 0))
    share = on_simplex.astype(weights.dtype)
    uniform = share / jnp.sum(share)
    return jnp.where(total > 0, weights / jnp.where(total > 0, total, 1), uniform)


def penalized(gram, on_simplex):
    """Return the program with a penalty, and w/x: the unit of every row in that of the shortest on the simplex.

    The penalty is of the size of the smallest squared length on the simplex: larger, it would swamp that task.
    """
    quadratic, units = round_lengths(gram)
    lengths = reciprocal(units)  # powers of two, zero for a zero row
    shortest = jnp.min(jnp.where(on_simplex, lengths, jnp.inf))
    ratio = jnp.where(lengths > 0, shortest * units, on_simplex.astype(gram.dtype))  # limit at a zero row
    share = jnp.where(on_simplex, ratio, 0)
    stationary = on_simplex & (lengths == 0)
    quadratic = quadratic - jnp.diag(stationary.astype(gram.dtype))
    return _program.Program(quadratic, None, share), ratio


def _segment(gram):
    """Return the foot of the altitude of a triangle, clipped to the segment."""
    gram = without_scale(gram)
    excess = jnp.maximum(jnp.diagonal(gram)[::-1] - gram[0, 1], 0)
    total = jnp.sum(excess)
    return jnp.where(total > 0, excess / jnp.where(total > 0, total, 1), jnp.full_like(excess, 0.5))


def _half_space(gram):
    """Return the weights that project the first row onto the half-space of the second."""
    square = gram[1, 1]
    share = jnp.where(square > 0, jnp.maximum(-gram[0, 1], 0) / jnp.where(square > 0, square, 1), 0)
    return jnp.stack([jnp.ones_like(share), share])


def check_num_simplex(num_simplex: int | None, num_tasks: int) -> int:
    """Return the number of simplex rows, T by default."""
    if num_simplex is None:
        return num_tasks
    if not isinstance(num_simplex, Tracer) and not 1 <= num_simplex <= num_tasks:
        raise ValueError(
            f"expected num_simplex (num_primary) between 1 and the number of tasks, {num_tasks}, got {num_simplex}."
        )
    return num_simplex
