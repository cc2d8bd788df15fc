"""The preference vector p: how much each task matters; and the ray r: in which proportion the losses should end."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mtlgrad_jax.ground.grams import check_gram
from mtlgrad_jax.ground.presence import everyone, number, only
from mtlgrad_jax.typing import Gram, PerTask


def resolve(preference: PerTask | None, gram: Gram, present: jax.Array | None = None) -> jax.Array:
    """Return p in the dtype of the Gram matrix, 1/T each by default.

    Args:
      preference: Shape `(T,)`, or None.
      gram: G, shape `(T, T)`.
      present: Booleans, shape `(T,)`; an absent task gets zero and leaves its share to the others.

    Returns:
      p, shape `(T,)`.

    Raises:
      ValueError: If `gram` is not square, or `preference` is not of shape `(T,)` or known to be negative.
    """
    num_tasks = check_gram(gram)
    if preference is None:
        return _among(jnp.full_like(gram[0], 1 / num_tasks), present)
    p = jnp.asarray(preference, gram.dtype)
    if p.shape != (num_tasks,):
        raise ValueError(f"expected preference of shape ({num_tasks},), one number per task, got {p.shape}.")
    return _among(check_nonnegative(p, "preference", preference), present)


def _among(p, present):
    """Return p among the tasks present, with the sum that it has among all."""
    if present is None:
        return p
    share = only(p, present)
    total = jnp.sum(share)
    return share * (jnp.sum(p) / jnp.where(total > 0, total, 1))


def resolve_relative(preference: PerTask | None, gram: Gram, present: jax.Array | None = None) -> jax.Array:
    """Return Tp, ones by default, T being the number of tasks present; arguments as of `resolve`."""
    check_gram(gram)
    if preference is None:
        return only(jnp.ones_like(gram[0]), present)
    return resolve(preference, gram, present) * number(everyone(present, gram[0]), gram.dtype)


def resolve_positive(
    preference: PerTask | None, gram: Gram, present: jax.Array | None = None, *, name: str = "preference"
) -> jax.Array:
    """Return p as `resolve` does where the method divides by it: positive, and summing to one.

    Args:
      preference: Shape `(T,)`, of any sum, or None.
      gram: G, shape `(T, T)`.
      present: Booleans, shape `(T,)`; their entries sum to one, those of absent tasks are positive.
      name: What the user calls it.

    Returns:
      p, shape `(T,)`, at least ε times its largest entry, which is what a traced zero becomes.

    Raises:
      ValueError: If `preference` is not of shape `(T,)` or known to have an entry that is not positive.
    """
    num_tasks = check_gram(gram)
    if preference is None:
        return jnp.ones_like(gram[0]) / number(everyone(present, gram[0]), gram.dtype)
    p = jnp.asarray(preference, gram.dtype)
    if p.shape != (num_tasks,):
        raise ValueError(f"expected {name} of shape ({num_tasks},), one number per task, got {p.shape}.")
    if not isinstance(preference, Tracer) and not np.all(np.asarray(preference) > 0):
        raise ValueError(f"expected {name} to be positive, one number per task, got {preference}.")
    p = jnp.maximum(p, jnp.finfo(p.dtype).eps * jnp.max(p))
    total = jnp.sum(only(p, present))
    return p / jnp.where(total > 0, total, 1)


def check_nonnegative(values: jax.Array, name: str, given: PerTask) -> jax.Array:
    """Return the values, or refuse negative ones where they are known at trace time."""
    if not isinstance(given, Tracer) and np.any(np.asarray(given) < 0):
        raise ValueError(f"expected {name} of at least zero, one number per task, got {given}.")
    return values
