"""What a step does when the gradient of a task is not finite."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import dot

POLICIES = ("propagate", "skip", "drop_task")


def stand_in(present: jax.Array, num_leading: int, dtype: jnp.dtype) -> jax.Array:
    """Return S, the matrix that replaces each missing row by the mean of the rows present in its group.

    The mean of a group lies in its hull and its cone, so methods that depend on these only (mean, MGDA,
    primary_aux, CAGrad, the projections onto the dual cone) see exactly the problem without the row,
    although T is static. The groups are the first `num_leading` rows and the rest. A group with no row
    left stands at zero.

    Args:
      present: Boolean, shape `(T,)`.
      num_leading: Size of the first group, T for a single one.
      dtype: Of the result.

    Returns:
      S, shape `(T, T)`: SJ has no missing row, and Sᵀw moves the weights to the rows present.
    """
    leading = jnp.arange(present.shape[0]) < num_leading
    same_group = (leading[:, None] == leading[None, :]) & present[None, :]
    shares = same_group.astype(dtype)
    means = shares / jnp.maximum(jnp.sum(shares, axis=1, keepdims=True), 1)
    return jnp.where(present[:, None], jnp.eye(present.shape[0], dtype=dtype), means)


def stand_in_gram(gram: jax.Array, present: jax.Array, rows: jax.Array) -> jax.Array:
    """Return the Gram matrix of SJ, whatever the missing rows hold."""
    known = jnp.where(present[:, None] & present[None, :], gram, 0)
    return dot(dot(rows, known), rows.T)
