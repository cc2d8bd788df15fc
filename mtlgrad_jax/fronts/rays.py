"""Directions in loss space, evenly spread."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

FINENESS = 40  # candidates for each ray wanted


def rays(num_tasks: int, num_rays: int, *, margin: float = 0.01) -> jax.Array:
    """Spread rays evenly over the simplex.

    Two tasks: equal steps. More: the lattice of Das and Dennis if it has that many points, else the corners and then,
    one by one, the lattice point farthest from those chosen.

    Args:
      num_tasks: T.
      num_rays: K.
      margin: The smallest entry of a ray, below 1/T; with zero the outermost rays ask for losses of zero.

    Returns:
      Positive numbers, shape `(K, T)`, float32; rows sum to one. For two tasks in order, from much of the second loss
      to much of the first.

    Raises:
      ValueError: If a number is not positive, or `margin` not between 0 and 1/T.

    Example:
      >>> import mtlgrad_jax as mtl
      >>> mtl.fronts.rays(2, 3, margin=0.1)
      Array([[0.1, 0.9],
             [0.5, 0.5],
             [0.9, 0.1]], dtype=float32)

    References:
      Das & Dennis, "Normal-boundary intersection", SIAM J. Optim. 8 (1998).
    """
    if num_tasks < 1 or num_rays < 1:
        raise ValueError(f"expected at least one task and one ray, got {num_tasks} and {num_rays}.")
    if not 0 <= margin * num_tasks < 1:
        raise ValueError(f"expected margin of at least 0 and below 1/{num_tasks}, got {margin}.")
    points = _points(num_tasks, num_rays)
    return jnp.asarray(margin + (1 - num_tasks * margin) * points, jnp.float32)


def _points(num_tasks, num_rays):
    if num_rays == 1:
        return np.full((1, num_tasks), 1 / num_tasks)
    steps = _steps(num_tasks, num_rays)
    if math.comb(steps + num_tasks - 1, num_tasks - 1) == num_rays:
        return _lattice(num_tasks, steps)
    return _spread(_lattice(num_tasks, _steps(num_tasks, FINENESS * num_rays)), num_rays)


def _steps(num_tasks, count):
    """Return the steps along an edge of the coarsest lattice with at least this many points."""
    steps = 1
    while math.comb(steps + num_tasks - 1, num_tasks - 1) < count and num_tasks > 1:
        steps += 1
    return steps


def _lattice(num_tasks, steps):
    """Return all points whose entries are multiples of 1/steps."""
    bars = itertools.combinations(range(steps + num_tasks - 1), num_tasks - 1)
    bars = np.array([(-1, *places, steps + num_tasks - 1) for places in bars])
    return (np.diff(bars, axis=1) - 1) / steps


def _spread(candidates, count):
    chosen = [int(np.argmax(candidates[:, 0]))]
    nearest = np.linalg.norm(candidates - candidates[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(candidates - candidates[chosen[-1]], axis=1))
    return candidates[chosen]
