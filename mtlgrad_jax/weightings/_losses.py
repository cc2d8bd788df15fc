"""Losses as extras: checked once, and with a defined answer where a loss has no logarithm."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.typing import Gram


def check_losses(losses: jax.Array | None, gram: Gram, method: str, *, name: str = "losses") -> jax.Array:
    """Return losses of shape `(T,)` in the dtype of the Gram matrix, or explain how to pass them."""
    if losses is None:
        raise ValueError(
            f"{method} expected {name} of shape {gram.shape[:1]}, got none; pass {name}={name}, in a transformation "
            f"as tx.update(task_grads, state, params, {name}={name})."
        )
    if jnp.shape(losses) != gram.shape[:1]:
        raise ValueError(f"{method} expected {name} of shape {gram.shape[:1]}, one per task, got {jnp.shape(losses)}.")
    return jnp.asarray(losses).astype(gram.dtype)


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
