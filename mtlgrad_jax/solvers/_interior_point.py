"""A primal-dual interior-point method: as few steps for a singular matrix as for any other."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import _restricted
from mtlgrad_jax.solvers._totals import total

MAX_STEPS = 30
MAX_IDLE = 3


class _Iterate(NamedTuple):
    x: jax.Array  # (n,), positive
    dual: jax.Array  # (n,), positive, the slope at the solution
    best: tuple[
        jax.Array, jax.Array, jax.Array
    ]  # both where the optimality conditions failed by least, and by how much
    num_idle: jax.Array  # () int32, steps since then
    num_steps: jax.Array  # () int32


def solve(matrix: jax.Array, vector: jax.Array, needed: jax.Array):
    """Approach the solution of min ½xᵀAx + bᵀx, x ≥ 0 from inside (Mehrotra 1992).

    Args:
      matrix: A, shape `(n, n)`, positive semi-definite, diagonal of order one.
      vector: b, shape `(n,)`, largest magnitude one.
      needed: If false, take no step.

    Returns:
      x, zero where its slope is the larger of the two, and the number of steps.
    """
    n = vector.shape[0]
    eps = jnp.finfo(matrix.dtype).eps.item()
    everywhere = vector == vector

    def advance(iterate):
        x, dual, best, num_idle, num_steps = iterate
        # Unknowns dx/√(x/(1+…)): scaled to a diagonal of one, the matrix has a factor whatever x/dual is.
        diagonal = jnp.diagonal(matrix) + dual / x
        inverse = lax.rsqrt(diagonal)
        barrier = jnp.diag(dual / x * inverse * inverse)
        scaled = matrix * inverse[:, None] * inverse[None, :] + barrier
        factor = _restricted.factorize(scaled, everywhere, 2 * eps * n**0.5)
        residual = dot(matrix, x) + vector - dual

        def direction(target):
            """Solve the linearised conditions: slope = dual, x·dual = target."""
            rhs = -residual + target / x - dual
            step = factor(rhs * inverse) * inverse
            return step, (target - dual * step) / x - dual

        mean = total(x * dual) / n
        dx, ddual = direction(0 * x)
        after = total((x + _room(x, dx) * dx) * (dual + _room(dual, ddual) * ddual)) / n
        centering = (jnp.maximum(after, 0) / mean) ** 3
        dx, ddual = direction(centering * mean - dx * ddual)
        length = 0.995 * _room(jnp.concatenate([x, dual]), jnp.concatenate([dx, ddual]))
        x, dual = x + length * dx, dual + length * ddual
        error = _error(matrix, vector, x, dual)
        better = error < 0.9 * best[2]  # false where no step exists
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), (x, dual, error), best)
        num_idle = jnp.where(jnp.isfinite(error), jnp.where(better, 0, num_idle + 1), MAX_IDLE)
        return _Iterate(x, dual, best, num_idle, num_steps + 1)

    def unfinished(iterate):
        wanted = (iterate.best[2] > eps / 8) & (iterate.num_idle < MAX_IDLE)
        return wanted & (iterate.num_steps < MAX_STEPS)

    x = 0 * vector + 1 / n
    dual = jnp.maximum(dot(matrix, x) + vector, 0) + 1 / n
    none = (0 * vector[0]).astype(jnp.int32)
    best = (x, dual, _error(matrix, vector, x, dual))
    start = _Iterate(x, dual, best, jnp.where(needed, none, MAX_IDLE), none)
    end = lax.while_loop(unfinished, advance, start)
    x, dual, _ = end.best
    return jnp.where(x > dual, x, 0), end.num_steps


def _room(x, step):
    """Return the longest share of a step, at most one, that leaves x non-negative."""
    return jnp.minimum(jnp.min(jnp.where(step < 0, x / jnp.where(step < 0, -step, 1), 1)), 1)


def _error(matrix, vector, x, dual):
    return jnp.maximum(total(x * dual), jnp.max(jnp.abs(dot(matrix, x) + vector - dual)))
