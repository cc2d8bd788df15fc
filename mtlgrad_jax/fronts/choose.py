"""One member out of a population."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.fronts.distances import angles
from mtlgrad_jax.fronts.dominance import nondominated
from mtlgrad_jax.ground.grams import reciprocal


def closest(losses: jax.Array, ray: jax.Array) -> jax.Array:
    """Choose the member whose losses are in the proportion that is closest to a ray.

    Args:
      losses: L, shape `(K, T)`.
      ray: r, shape `(T,)`, of any length.

    Returns:
      Its number, an int32 scalar; members that others dominate are left out.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> losses = jnp.array([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0]])
      >>> int(mtl.fronts.closest(losses, jnp.array([0.2, 0.8])))
      0
    """
    return _least(angles(losses, jnp.broadcast_to(ray, losses.shape)), nondominated(losses))


def knee(losses: jax.Array) -> jax.Array:
    """Choose the member at the bend of the front, from where every gain in one loss costs much of another.

    The one lowest under the plane through the members that are best in one loss each, losses measured from the best to
    the worst of the front: the least sum of losses so measured.

    Args:
      losses: L, shape `(K, T)`.

    Returns:
      Its number, an int32 scalar. Where the front is concave, that is an end of it.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> int(mtl.fronts.knee(jnp.array([[0.0, 10.0], [1.0, 2.0], [9.0, 0.0]])))
      1

    References:
      Das, "On characterizing the knee of the Pareto curve", Structural Optimization 18 (1999).
    """
    front = nondominated(losses)
    best = jnp.min(jnp.where(front[:, None], losses, jnp.inf), axis=0)
    worst = jnp.max(jnp.where(front[:, None], losses, -jnp.inf), axis=0)
    relative = jnp.where(front[:, None], losses - best[None, :], 0) * reciprocal(worst - best)[None, :]
    return _least(jnp.sum(relative, axis=1), front)


def within(losses: jax.Array, task: int, at_most: jax.Array) -> jax.Array:
    """Choose the member that is best in one loss among those that keep the others within limits.

    Args:
      losses: L, shape `(K, T)`.
      task: The loss to be low.
      at_most: The limits, shape `(T,)`, infinite where there is none; a number for all losses but that of `task`.

    Returns:
      Its number, an int32 scalar; −1 if no member keeps the limits.

    Example:
      As good as possible in the first loss, with the second at most two:

      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> losses = jnp.array([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0]])
      >>> int(mtl.fronts.within(losses, 0, 2.0)), int(mtl.fronts.within(losses, 0, 0.5))
      (1, -1)
    """
    limits = jnp.asarray(at_most, losses.dtype)
    if limits.ndim == 0:
        limits = jnp.where(jnp.arange(losses.shape[1]) == task, jnp.inf, limits)
    kept = jnp.all(losses <= limits[None, :], axis=1)
    return jnp.where(jnp.any(kept), _least(losses[:, task], kept), -1)


def _least(values, allowed):
    return jnp.argmin(jnp.where(allowed, values, jnp.inf)).astype(jnp.int32)
