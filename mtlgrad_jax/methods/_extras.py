"""What a step hands to a method besides G: checked once, and with a defined answer where a loss has no logarithm."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mtlgrad_jax.ground.grams import check_gram
from mtlgrad_jax.ground.presence import leave_out
from mtlgrad_jax.solvers import refine as refine_weights
from mtlgrad_jax.typing import Gram, Solution


def check_losses(losses: ArrayLike | None, gram: Gram, method: str, *, name: str = "losses") -> jax.Array:
    """Return losses of shape `(T,)` in the dtype of the Gram matrix, or explain how to pass them."""
    check_gram(gram)
    if losses is None:
        raise ValueError(
            f"{method} expected {name} of shape {gram.shape[:1]}, got none; pass {name}={name}, in a transformation "
            f"as tx.update(task_grads, state, params, {name}={name}) (of Flax's TrainState, call state.tx.update so: "
            "its apply_gradients hands no keyword on)."
        )
    if jnp.shape(losses) != gram.shape[:1]:
        raise ValueError(f"{method} expected {name} of shape {gram.shape[:1]}, one per task, got {jnp.shape(losses)}.")
    return jnp.asarray(losses).astype(gram.dtype)


def check_cross_gram(
    cross_gram: jax.Array | None, gram: Gram, method: str, present: jax.Array | None = None
) -> jax.Array:
    """Return the cross Gram matrix of the tasks present, zero if it is not finite, or explain where it comes from."""
    check_gram(gram)
    if cross_gram is None or jnp.shape(cross_gram) != gram.shape:
        got = "none" if cross_gram is None else jnp.shape(cross_gram)
        raise ValueError(
            f"{method} expected cross_gram of shape {gram.shape}, got {got}; the transformation computes it from "
            "tx.update(task_grads, state, params, second_task_grads=second_task_grads)."
        )
    cross_gram = leave_out(cross_gram, present)
    return jnp.where(jnp.all(jnp.isfinite(cross_gram)), cross_gram, 0).astype(gram.dtype)


def refinement(refine: bool, num_simplex: int | None = None) -> Callable[..., Solution] | None:
    """Return what `typing.Method` is to ask J itself, None for nothing."""
    if not isinstance(refine, bool):
        raise ValueError(
            f"expected refine to be True or False, got {refine!r}; with optax.inject_hyperparams, list it in "
            "static_args."
        )
    return partial(refine_weights, num_simplex=num_simplex) if refine else None
