"""A step in a few scalars, for a logger."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.diagnostics.direction import alignment, effective_tasks, hurt_tasks, stationarity
from mtlgrad_jax.diagnostics.gradients import conflicts, cosines, magnitude_similarity
from mtlgrad_jax.typing import Gram, Weights


class Summary(NamedTuple):
    """Scalars; `_asdict()` makes them a dict."""

    worst_cosine: jax.Array  # () smallest cosine between two task gradients; one for T = 1
    conflicting_pairs: jax.Array  # () share of the pairs that oppose each other; zero for T = 1
    least_similarity: jax.Array  # () smallest magnitude similarity; one for T = 1
    worst_alignment: jax.Array  # () smallest cosine between the update and a task gradient
    num_hurt: jax.Array  # () int32, tasks whose loss the update raises
    effective_tasks: jax.Array  # () number of tasks that make up the update
    stationarity: jax.Array  # () zero where no direction improves all tasks


@jax.jit
def summarize(gram: Gram, weights: Weights) -> Summary:
    """Describe a step in scalars, cheaply enough to do so at every step: T×T products and one small program.

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      weights: w, shape `(T,)`.

    Returns:
      A `Summary`, every entry without units and the same at every scale of the gradients.

    Raises:
      ValueError: If `gram` is not a square matrix of floats or `weights` is not one number per task.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> opposed = jnp.array([[1.0, -2.0], [-2.0, 9.0]])
      >>> summary = mtl.diagnostics.summarize(opposed, jnp.ones(2))
      >>> {name: round(float(value), 2) for name, value in summary._asdict().items()}
      {'worst_cosine': -0.67, 'conflicting_pairs': 1.0, 'least_similarity': 0.6, 'worst_alignment': -0.41,
       'num_hurt': 1.0, 'effective_tasks': 1.6, 'stationarity': 0.2}
    """
    cosine, similarity = cosines(gram), magnitude_similarity(gram)
    num_tasks = gram.shape[0]
    itself = jnp.eye(num_tasks, dtype=bool)
    num_pairs = max(num_tasks * (num_tasks - 1), 1)
    return Summary(
        worst_cosine=jnp.min(jnp.where(itself, 1, cosine)),
        conflicting_pairs=jnp.sum(conflicts(gram).astype(gram.dtype)) / num_pairs,
        least_similarity=jnp.min(jnp.where(itself, 1, similarity)),
        worst_alignment=jnp.min(alignment(gram, weights)),
        num_hurt=jnp.sum(hurt_tasks(gram, weights).astype(jnp.int32)),
        effective_tasks=effective_tasks(gram, weights),
        stationarity=stationarity(gram),
    )
