"""The exact solver behind every program: pivot in blocks, and where that is not enough, work more carefully."""

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import reciprocal
from mtlgrad_jax.solvers import _active_set, _interior_point, _pivoting, _program

ENOUGH = 16.0  # rounding units of the value


def solve(program: _program.Program) -> tuple[jax.Array, jax.Array]:
    """Solve a program in scaled coordinates.

    Args:
      program: See `_program.Program`.

    Returns:
      x, shape `(n,)`, and the number of steps of all methods.
    """
    matrix, vector = _program.matrix_and_vector(program)
    strength = jnp.max(jnp.abs(vector))
    unit = reciprocal(strength)
    vector = vector * unit
    x, solved, doubt, num_pivots = _pivoting.solve(matrix, vector)
    value = dot_value(program, x, vector)
    precise = solved & (doubt <= ENOUGH * jnp.finfo(x.dtype).eps * value)

    def fall_back():
        # Under vmap both branches run, so the fallbacks must also know by themselves that they are not needed.
        inside, num_inside = _interior_point.solve(matrix, vector, needed=~solved)
        start = jnp.where(solved, x, inside)
        scaled = program if program.share is not None else program._replace(linear=vector)
        point, num_insertions = _active_set.solve(scaled, start, needed=~precise)
        return point, num_inside + num_insertions

    x, num_more = lax.cond(precise, lambda: (x, 0 * num_pivots), fall_back)
    return x * strength, num_pivots + num_more


def dot_value(program, x, vector):
    """Return the value of a solution: half the squared length of what is left, or of what was added."""
    along = -jnp.sum(x * vector)
    return (along if program.share is None else jnp.maximum(1 - along, 0)) / 2
