"""Projected steps on the simplex."""

import jax
import jax.numpy as jnp


def project(point: jax.Array) -> jax.Array:
    """Return the point of the simplex closest to `point`, shape `(T,)`."""
    descending = jnp.sort(point)[::-1]
    count = jnp.arange(1, point.shape[0] + 1).astype(point.dtype)
    levels = (jnp.cumsum(descending) - 1) / count
    level = levels[jnp.sum((descending > levels).astype(jnp.int32)) - 1]
    moved = jnp.maximum(point - level, 0)
    return moved / jnp.sum(moved)


def descend(weights: jax.Array, slope: jax.Array, step: jax.Array) -> jax.Array:
    """Return the projection of weights − step·slope; a step beyond the range of the type goes to a vertex."""
    steepest = jnp.max(slope) - jnp.min(slope)
    tiny = jnp.finfo(slope.dtype).tiny
    unit = jnp.where(steepest > tiny, steepest, 1)
    length = jnp.minimum(step * unit, 2.0**40)  # a vertex long before that
    relative = (slope - jnp.min(slope)) / unit
    return project(weights - length * relative)
