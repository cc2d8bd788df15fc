"""Projected steps on the simplex."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.presence import everyone, number, only


def project(point: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """Return the point of the simplex closest to `point`, shape `(T,)`; of its face of tasks present."""
    present = everyone(present, point)
    descending = jnp.sort(jnp.where(present, point, -jnp.inf))[::-1]
    ranked = jnp.arange(point.shape[0], dtype=jnp.int32) < jnp.sum(present, dtype=jnp.int32)
    descending = jnp.where(ranked, descending, 0)
    count = jnp.arange(1, point.shape[0] + 1).astype(point.dtype)
    levels = (jnp.cumsum(descending) - 1) / count
    level = levels[jnp.sum((ranked & (descending > levels)).astype(jnp.int32)) - 1]
    moved = only(jnp.maximum(point - level, 0), present)
    total = jnp.sum(moved)
    return moved / jnp.where(total > 0, total, 1)


def descend(weights: jax.Array, slope: jax.Array, step: jax.Array, present: jax.Array | None = None) -> jax.Array:
    """Return the projection of weights − step·slope; a step beyond the range of the type goes to a vertex."""
    lowest = jnp.min(slope if present is None else jnp.where(present, slope, jnp.inf))
    steepest = jnp.max(slope if present is None else jnp.where(present, slope, -jnp.inf)) - lowest
    tiny = jnp.finfo(slope.dtype).tiny
    unit = jnp.where(steepest > tiny, steepest, 1)
    length = jnp.minimum(step * unit, 2.0**40)  # a vertex long before that
    relative = only((slope - lowest) / unit, present)
    return project(weights - length * relative, present)


def restrict(weights: jax.Array, present: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Return the weights among the tasks present, and what these have of the whole."""
    if present is None:
        return weights, jnp.ones_like(weights[0])
    share = only(weights, present)
    total = jnp.sum(share)
    equal = present.astype(weights.dtype) / number(present, weights.dtype)
    return jnp.where(total > 0, share / jnp.where(total > 0, total, 1), equal), total


def resume(before: jax.Array, weights: jax.Array, total: jax.Array, present: jax.Array | None) -> jax.Array:
    """Return weights of all tasks: those present share anew what they had, the others keep theirs."""
    moved = (weights * total).astype(before.dtype)
    return moved if present is None else jnp.where(present, moved, before)
