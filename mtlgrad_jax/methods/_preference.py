"""The preference vector p: how much each task matters."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mtlgrad_jax.ground.grams import check_gram
from mtlgrad_jax.ground.presence import only
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


def check_nonnegative(values: jax.Array, name: str, given: PerTask) -> jax.Array:
    """Return the values, or refuse negative ones where they are known at trace time."""
    if not isinstance(given, Tracer) and np.any(np.asarray(given) < 0):
        raise ValueError(f"expected {name} of at least zero, one number per task, got {given}.")
    return values
