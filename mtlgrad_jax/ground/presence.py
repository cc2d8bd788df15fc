"""Tasks that have no part in a step, although T is static: leave them out, count the others, stand in for them."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.ground.leaves import is_inexact, per_row


def leave_out(gram: jax.Array, present: jax.Array | None) -> jax.Array:
    """Put zeros in the rows and columns of absent tasks, whatever they hold; G itself where all are present."""
    return gram if present is None else jnp.where(present[:, None] & present[None, :], gram, 0)


def only(values: jax.Array, present: jax.Array | None) -> jax.Array:
    """Put zero in the place of absent tasks, whatever it holds; the values themselves where all are present."""
    return values if present is None else jnp.where(present, values, 0)


def only_rows(tree, present: jax.Array | None):
    """Put zeros in the rows of absent tasks, leaf by leaf."""
    if present is None:
        return tree
    return jax.tree.map(lambda leaf: jnp.where(per_row(present, leaf), leaf, 0) if is_inexact(leaf) else leaf, tree)


def everyone(present: jax.Array | None, values: jax.Array) -> jax.Array:
    """Return who is present, shape `(T,)`: all beside the T `values` if nobody says."""
    return jnp.ones_like(values, dtype=bool) if present is None else present


def number(present: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Return how many are present, at least one."""
    return jnp.maximum(jnp.sum(present.astype(dtype)), 1)


def stand_in(present: jax.Array, num_leading: int | None, dtype: jnp.dtype) -> jax.Array:
    """Return S, the matrix that replaces each missing row by the mean of the rows present in its group.

    The mean of a group lies in its hull and its cone, so methods that depend on these only (MGDA,
    primary_aux, CAGrad's program) see exactly the problem without the row, although T is static. The groups
    are the first `num_leading` rows and the rest. A group with no row left stands at zero.

    Args:
      present: Boolean, shape `(T,)`.
      num_leading: Size of the first group, None for a single one.
      dtype: Of the result.

    Returns:
      S, shape `(T, T)`: SJ has no missing row, and Sᵀw moves the weights to the rows present.
    """
    num_tasks = present.shape[0]
    leading = jnp.arange(num_tasks) < (num_tasks if num_leading is None else num_leading)
    shares = ((leading[:, None] == leading[None, :]) & present[None, :]).astype(dtype)
    means = shares / jnp.maximum(jnp.sum(shares, axis=1, keepdims=True), 1)
    return jnp.where(present[:, None], jnp.eye(num_tasks, dtype=dtype), means)


def fill(gram: jax.Array, present: jax.Array, stand_in: jax.Array) -> jax.Array:
    """Return the Gram matrix of SJ, whatever the missing rows hold."""
    return dot(dot(stand_in, leave_out(gram, present)), stand_in.T)


def fill_hull(gram: jax.Array, present: jax.Array | None, num_leading: int | None = None):
    """Return the Gram matrix without absent tasks, and a function that moves its weights to the tasks present.

    Args:
      gram: G, shape `(T, T)`.
      present: Boolean, shape `(T,)`; None for all, where nothing changes.
      num_leading: Size of the first of two groups, as in `stand_in`.

    Returns:
      SGSᵀ, and w ↦ Sᵀw.
    """
    if present is None:
        return gram, lambda weights: weights
    matrix = stand_in(present, num_leading, gram.dtype)
    return fill(gram, present, matrix), lambda weights: dot(weights, matrix)
