"""The linear algebra that every method here repeats: solve on the free coordinates."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.solvers import _factor
from mtlgrad_jax.solvers._totals import some, total

MAX_STEPS = 12  # of conjugate gradients
NUM_REFINEMENTS = 6


def factorize(matrix: jax.Array, free: jax.Array, ridge: jax.Array | float) -> Callable[[jax.Array], jax.Array]:
    """Return b ↦ y with (A + ridge·I)y = b on the free coordinates and y = 0 elsewhere.

    Args:
      matrix: A, shape `(n, n)`, positive semi-definite.
      free: Boolean, shape `(n,)`.
      ridge: A scalar, or shape `(n,)`.

    Returns:
      A linear function of vectors of shape `(n,)`, and a pytree; its values are not finite if there is no factor.
    """
    mask = free.astype(matrix.dtype)
    diagonal = jnp.where(np.eye(mask.size, dtype=bool), (ridge * mask + (1 - mask))[None, :], 0)
    masked = matrix * mask[:, None] * mask[None, :] + diagonal
    return Partial(_solve_masked, _factor.cholesky(masked), mask)


def _solve_masked(solve, mask, rhs):
    return solve(rhs * mask)


def descend(matrix: jax.Array, solve: Callable, slope: jax.Array, free: jax.Array) -> jax.Array:
    """Return the step to the minimum of a face, by conjugate gradients behind a regularised factor.

    The factor alone would leave directions in which A is weaker than the ridge almost where they are.

    Args:
      matrix: A, shape `(n, n)`.
      solve: From `factorize`, with the same free coordinates.
      slope: Shape `(n,)`.
      free: Boolean, shape `(n,)`.

    Returns:
      Shape `(n,)`, zero where not free; zero if there is no factor.
    """
    mask = free.astype(matrix.dtype)
    residual = -slope * mask
    along = solve(residual)
    usable = ~some(~jnp.isfinite(along))
    along = jnp.where(usable, along, 0)
    energy = total(residual * along)
    goal = energy * jnp.finfo(matrix.dtype).eps ** 0.75

    def advance(state):
        step, residual, along, energy, _, num_steps = state
        image = dot(matrix, along) * mask
        curvature = total(along * image)
        flat = ~(curvature > 0)
        length = jnp.where(flat, 0, energy / jnp.where(flat, 1, curvature))
        step, residual = step + length * along, residual - length * image
        change = solve(residual)
        left = total(residual * change)
        along = change + left / jnp.where(energy > 0, energy, 1) * along
        return step, residual, along, left, flat | ~(left > goal), num_steps + 1

    none = (0 * energy).astype(jnp.int32)
    state = 0 * slope, residual, along, energy, ~(energy > 0), none
    return lax.while_loop(lambda state: ~state[4] & (state[5] < MAX_STEPS), advance, state)[0]


def differentiate(matrix: jax.Array, free: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Return b ↦ −y, Ay = b on a face: how its minimum moves when the slope there rises by b.

    Linear in b, so that it is transposed for reverse mode. Where A is singular the minimum is not unique, and the
    move is filtered: λ/(λ + ρ)² with ρ = √ε, its powers repeated, stands for 1/λ, and for zero at λ = 0.

    Args:
      matrix: A, shape `(n, n)`, positive semi-definite, diagonal of order one.
      free: Boolean, shape `(n,)`.

    Returns:
      A linear function of vectors of shape `(n,)`, always finite, zero where not free.
    """
    mask = free.astype(matrix.dtype)
    masked = matrix * mask[:, None] * mask[None, :]
    solve = factorize(matrix, free, jnp.finfo(matrix.dtype).eps.item() ** 0.5)

    def repeat(rhs):
        y = solve(rhs)
        for _ in range(NUM_REFINEMENTS):
            y = y + solve(rhs - dot(masked, y))
        return y

    return lambda rhs: -repeat(dot(masked, repeat(rhs)))
