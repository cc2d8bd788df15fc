"""Where to start with many coordinates: the end of a path through the interior, which tells the face of the solution.

Block pivoting loses its way where almost every coordinate is undecided, as with more tasks than dimensions and zero
near the border of the hull. There Mehrotra's predictor and corrector (1992) need about ten steps, whatever the size and
the rank, in relative changes of x and of its slope z: what is to vanish falls a hundredfold in each of the last steps.
What is left, the digits of the solution, is done on the face by a step or two of `_exact`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.solvers import _products, _program, _restricted
from mtlgrad_jax.solvers._packed_loop import while_loop

MAX_STEPS = 25
SHORT = 0.99  # of the way to the border
PULL = 0.5  # of the sum of x, in nμ: it stays of order one where opposed rows of a cone leave it free


class _Point(NamedTuple):
    x: jax.Array  # (n,), positive
    z: jax.Array  # (n,), positive, what the slope becomes
    slope: jax.Array  # (n,)
    free: jax.Array  # (n,) bool, x is not on its way to zero (Tapia's indicator)
    done: jax.Array  # () bool
    num_steps: jax.Array  # () int32


def approach(
    program: _program.Program, rows: tuple[_products.Digits, ...], needed: jax.Array | bool
) -> tuple[jax.Array, jax.Array]:
    """Go through the interior until the face of the solution shows.

    Args:
      program: See `_program.Program`; with a share and no root.
      rows: Its `_program.digits`.
      needed: If false, no step is taken.

    Returns:
      x, shape `(n,)`, zero off the face, and the number of steps.
    """
    matrix, vector = _program.matrix_and_vector(program)
    eps = jnp.finfo(vector.dtype).eps.item()

    def advance(point):
        product = point.x * point.z
        matrix_of_changes, inverse = _restricted.relative(matrix, point.x, product)
        factor = _restricted.factorize(matrix_of_changes, point.x > 0, 4 * eps * vector.size**0.5)

        def toward(target, pull):
            """Return the relative changes of x and z on the way to xz = target and z = slope + pull."""
            change = factor.solve((target - point.x * (point.slope + pull)) * inverse) * inverse
            return change, target / product - 1 - change

        x_change, z_change = toward(0 * product, 0)
        length = _room(x_change, z_change, 1)
        ahead = jnp.mean(product * (1 + length * x_change) * (1 + length * z_change))
        center = jnp.mean(product) * (ahead / jnp.mean(product)) ** 3
        free = x_change > -0.5
        x_change, z_change = toward(center - product * x_change * z_change, PULL * vector.size * center)
        length = _room(x_change, z_change, SHORT)
        possible = jnp.all(jnp.isfinite(x_change) & jnp.isfinite(z_change))
        x = jnp.where(possible, jnp.maximum(point.x * (1 + length * x_change), eps * eps), point.x)
        z = jnp.where(possible, jnp.maximum(point.z * (1 + length * z_change), eps * eps), point.z)
        slope, value = _program.evaluate(program, rows, x, 0 * x)
        total = jnp.sum(x)
        near = (jnp.sum(x * z) <= 8 * eps * value) | (value <= eps / 4)  # there the rounding of A itself decides
        flat = jnp.all(~free | (jnp.abs(slope) <= 4 * eps * (total + jnp.abs(vector))))
        return _Point(x, z, slope, free, ~possible | (near & flat), point.num_steps + 1)

    def unfinished(point):
        return ~point.done & (point.num_steps < MAX_STEPS)

    x = 0 * vector + vector.size / jnp.sum(jnp.abs(matrix))
    slope, _ = _program.evaluate(program, rows, x, 0 * x)
    start = _Point(x, 0 * x + 1, slope, x > 0, (x[0] < 0) | ~needed, (0 * x[0]).astype(jnp.int32))
    end = while_loop(unfinished, advance, start)
    return jnp.where(end.free, end.x, 0), end.num_steps


def _room(x_change, z_change, share):
    """Return how far these relative changes go, at most to the share of the way on which one is −1."""
    steepest = jnp.maximum(jnp.max(-x_change), jnp.max(-z_change))
    return share / jnp.maximum(steepest, share)
