"""Logarithms, exponentials and softmax with a defined answer where a number has none or leaves the range."""

import jax
import jax.numpy as jnp


def log_losses(losses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return log L, zero where there is none, and whether there is one: L positive, normal and finite."""
    usable = (losses >= jnp.finfo(losses.dtype).tiny) & (losses < jnp.inf)
    return jnp.log(jnp.where(usable, losses, 1)), usable


def softmax_where(logits: jax.Array, usable: jax.Array) -> jax.Array:
    """Return the softmax over the usable entries, zero elsewhere; all zero if none is usable."""
    peak = jnp.max(jnp.where(usable, logits, -jnp.inf))
    parts = jnp.where(usable, jnp.exp(jnp.minimum(logits - jnp.where(jnp.isfinite(peak), peak, 0), 0)), 0)
    total = jnp.sum(parts)
    return parts / jnp.where(total > 0, total, 1)


def exp_in_range(exponent: jax.Array) -> jax.Array:
    """Return the exponential, at most the square root of the largest number of the type."""
    return jnp.exp(jnp.minimum(exponent, jnp.log(jnp.finfo(exponent.dtype).max) / 2))
