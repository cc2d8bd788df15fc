"""The exact solver behind every program: pivot in blocks, and where that is not enough, work more carefully."""

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.members import any_member
from mtlgrad_jax.solvers import _active_set, _interior_point, _pivoting, _program
from mtlgrad_jax.solvers._totals import total

ENOUGH = 16.0  # rounding units of the value


def solve(program: _program.Program) -> tuple[jax.Array, jax.Array]:
    """Solve a program in scaled coordinates.

    Args:
      program: See `_program.Program`.

    Returns:
      x, shape `(n,)`, and the number of steps of all methods.
    """
    matrix, vector = _program.matrix_and_vector(program)
    x, solved, doubt, num_pivots = _pivoting.solve(matrix, vector)
    value = dot_value(program, x, vector)
    precise = solved & (doubt <= ENOUGH * jnp.finfo(x.dtype).eps * value)

    def accept():
        return x, 0 * num_pivots

    def fall_back():
        inside, num_inside = _interior_point.solve(matrix, vector, needed=~solved)
        start = jnp.where(solved, x, inside)
        point, num_insertions = _active_set.solve(program, start, needed=~precise)
        return jnp.where(precise, x, point), num_inside + num_insertions

    x, num_more = lax.cond(any_member(~precise), fall_back, accept)
    return x, num_pivots + num_more


def dot_value(program, x, vector):
    """Return the value of a solution: half the squared length of what is left, or of what was added."""
    along = -total(x * vector)
    return (along if program.share is None else jnp.maximum(1 - along, 0)) / 2
