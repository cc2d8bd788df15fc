"""One number per task, learned beside the network by an Optax optimiser of the user's choice."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mtlgrad_jax.ground.grams import check_memory
from mtlgrad_jax.ground.leaves import choose
from mtlgrad_jax.ground.presence import everyone, only
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.typing import PyTree, StatefulWeighting

Optimizer = optax.GradientTransformation


class Learner(NamedTuple):
    """An optimiser for T numbers, each with a state of its own, so that one can rest while the others move."""

    init: Callable[[jax.Array], PyTree]  # values (T,) -> state, leaves (T, ...)
    descend: Callable[..., tuple[jax.Array, PyTree]]  # (values, state, slope, moving) -> values, state


def learner(optimizer: Optimizer | None, default: Optimizer, method: str) -> Learner:
    """Let an optimiser move T numbers down a slope, those that are `moving`; the others rest with all it knows of them.

    It sees one number at a time. For an optimiser that works entry by entry, as Adam does, that is the same as all at
    once, and a task that was away resumes with its own moments and its own count of steps. A slope of exactly zero is a
    constant to who differentiates: Adam divides by the root of its square.
    """
    chosen = default if optimizer is None else optimizer
    if not (hasattr(chosen, "init") and hasattr(chosen, "update")):
        name = getattr(optimizer, "__name__", type(optimizer).__name__)
        raise ValueError(
            f"{method} expected optimizer to be an Optax transformation, got {name}; pass optax.adam(0.025), for one."
        )

    def init(values):
        with _promotion_of_optax():
            return jax.vmap(chosen.init)(values)

    def step(value, state, slope):
        change, state = chosen.update(slope, state, value)
        return jnp.asarray(optax.apply_updates(value, change)), state

    def descend(values, state, slope, moving):
        limit = float(jnp.finfo(values.dtype).max) ** 0.25  # moments are squares of it
        slope = jnp.clip(only(slope, moving), -limit, limit).astype(values.dtype)
        flat = slope == 0
        with _promotion_of_optax():
            moved = jax.vmap(step)(values, state, jnp.where(flat, 1, slope))
            rested = lax.stop_gradient(jax.vmap(step)(values, state, slope))
        moved = jax.vmap(choose)(flat, rested, moved)
        return jax.vmap(choose)(moving, moved, (values, state))

    return Learner(init, descend)


def _promotion_of_optax():
    """Let types promote where Optax relies on it, as for Adam's power of a float to an integer."""
    return jax.numpy_dtype_promotion("standard")


class LearnedState(NamedTuple):
    """What a method remembers whose weights are a function of one learned number per task."""

    values: jax.Array  # (T,)
    optimizer: PyTree  # of the optimiser, leaves (T, ...)


def from_losses(
    method: str,
    *,
    weigh: Callable[[jax.Array, jax.Array], jax.Array],
    slope: Callable[[jax.Array, jax.Array], jax.Array],
    limit: Callable[[jnp.dtype], jax.Array | float],
    learner: Learner,
    start: float = 0.0,
) -> StatefulWeighting:
    """Return the weighting w = weigh(s, present), with s learned from the losses alone.

    Args:
      method: Its name, for messages.
      weigh: From s and who is present to w.
      slope: From s and L to the derivative that s descends, entry by entry; a loss of zero or less is handed as zero.
      limit: From a type to the largest |s|.
      learner: From `learner`.
      start: s before the first step.
    """

    def init(num_tasks):
        values = jnp.zeros(num_tasks) + start
        return LearnedState(values, learner.init(values))

    def update(gram, state, *, losses=None, present=None):
        check_memory(state.values, gram)
        losses = check_losses(losses, gram, method)
        present, known = everyone(present, losses), jnp.isfinite(losses)
        values = state.values.astype(gram.dtype)
        downhill = slope(values, jnp.where(known & (losses > 0), losses, 0))
        moved, memory = learner.descend(state.values, state.optimizer, downhill, present & known)
        most = jnp.asarray(limit(moved.dtype), moved.dtype)
        return weigh(values, present), LearnedState(jnp.clip(moved, -most, most), memory)

    return StatefulWeighting(init, update, reads_gram=False)


def half_of_the_exponent(dtype: jnp.dtype) -> jax.Array:
    """Return the largest |s| for which exp(s) and exp(−s) are far inside the range of a type."""
    return jnp.log(jnp.finfo(dtype).max) / 2
