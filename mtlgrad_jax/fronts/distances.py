"""How far members are from a known front, from their rays, and from each other."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import reciprocal


def generational_distance(losses: jax.Array, front: jax.Array) -> jax.Array:
    """Measure how far members are from a known front: zero if all lie on it, wherever.

    meanₖ minⱼ ‖Lₖ − Fⱼ‖

    Args:
      losses: L, shape `(K, T)`.
      front: Points of the front, shape `(M, T)`, dense.

    Returns:
      A non-negative scalar, in the unit of a loss.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> front = jnp.array([[0.0, 1.0], [1.0, 0.0]])
      >>> mtl.fronts.generational_distance(jnp.array([[0.0, 1.5]]), front)
      Array(0.5, dtype=float32)

    References:
      Van Veldhuizen & Lamont (1998); the mean of distances, not of their squares.
    """
    return jnp.mean(jnp.min(_distances(losses, front), axis=1))


def inverted_generational_distance(losses: jax.Array, front: jax.Array) -> jax.Array:
    """Measure how far a known front is from the nearest members: zero only if they cover it.

    meanⱼ minₖ ‖Lₖ − Fⱼ‖

    Args:
      losses: L, shape `(K, T)`.
      front: Points of the front, shape `(M, T)`, evenly spread.

    Returns:
      A non-negative scalar, in the unit of a loss.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> front = jnp.array([[0.0, 1.0], [1.0, 1.0]])
      >>> mtl.fronts.inverted_generational_distance(jnp.array([[0.0, 1.0]]), front)
      Array(0.5, dtype=float32)

    References:
      Coello Coello & Reyes Sierra (2004).
    """
    return jnp.mean(jnp.min(_distances(losses, front), axis=0))


def uniformity(losses: jax.Array) -> jax.Array:
    """Measure how evenly members are spread: the smallest distance to a neighbour over the mean one.

    minₖ dₖ / meanₖ dₖ,   dₖ = min_{j≠k} ‖Lₖ − Lⱼ‖

    Args:
      losses: L, shape `(K, T)`, at least two members.

    Returns:
      A scalar from 0, two members in one place, to 1, all neighbours equally far.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.fronts.uniformity(jnp.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0]]))
      Array(1., dtype=float32)
    """
    itself = jnp.eye(losses.shape[0], dtype=bool)
    nearest = jnp.min(jnp.where(itself, jnp.inf, _distances(losses, losses)), axis=1)
    return jnp.min(nearest) * reciprocal(jnp.mean(nearest))


def angles(losses: jax.Array, rays: jax.Array) -> jax.Array:
    """Measure the angle between the losses of every member and its ray, in degrees.

    Args:
      losses: L, shape `(K, T)`.
      rays: r, shape `(K, T)`, of any length.

    Returns:
      Shape `(K,)`; 90 for losses of zero.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.fronts.angles(jnp.array([[2.0, 2.0], [0.0, 1.0]]), jnp.array([[0.5, 0.5], [0.5, 0.5]])).round().tolist()
      [0.0, 45.0]
    """
    towards = rays * reciprocal(_length(rays))
    along = jnp.sum(losses * towards, axis=-1)
    across = _length(losses - along[:, None] * towards)[:, 0]
    return jnp.degrees(jnp.where((along == 0) & (across == 0), jnp.pi / 2, jnp.arctan2(across, along)))


def _length(vectors):
    return jnp.sqrt(jnp.sum(vectors**2, axis=-1, keepdims=True))


def _distances(losses, others):
    return jnp.sqrt(jnp.sum((losses[:, None, :] - others[None, :, :]) ** 2, axis=-1))
