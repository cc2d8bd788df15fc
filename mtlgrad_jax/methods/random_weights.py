"""Random loss weighting."""

import jax
import optax

from mtlgrad_jax.combinators.keyed import keyed
from mtlgrad_jax.ground.grams import check_gram
from mtlgrad_jax.ground.logarithms import softmax_where
from mtlgrad_jax.ground.presence import everyone
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, Weights, without_gram

CLAIMS = Claims("softmax of noise", keeps="LZF", needs="K", sums_to="1", costs="–")


@without_gram
def weights(gram: Gram, key: jax.Array, *, present: jax.Array | None = None) -> Weights:
    """Weigh tasks at random, by a softmax of normal numbers drawn anew at every step.

    A baseline: on average it is the mean of the gradients, with noise that may help to leave sharp minima.

    w = softmax(z),   z ~ N(0, I)

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape is used.
      key: A `jax.random.key`, see `keyed` for one per step.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`, positive, summing to one.

    Example:
      >>> import jax, jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weights = mtl.weightings.random_weights(jnp.eye(3), jax.random.key(0))
      >>> bool(jnp.all(weights > 0)), float(jnp.sum(weights))
      (True, 1.0)

    References:
      Lin et al., arXiv 2111.10603.
    """
    logits = jax.random.normal(key, (check_gram(gram),), gram.dtype)
    return softmax_where(logits, everyone(present, logits))


def random_weights(
    num_tasks: int | None = None,
    *,
    key: jax.Array | int = 0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow a random convex combination of the task gradients, drawn anew at every step.

    Args:
      num_tasks: T, see `aggregate`.
      key: An int seed or a `jax.random.key`; it lives in the state and every step draws anew.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients, whose update is their mean on average.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.random_weights(num_tasks=2, key=0), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)))
      >>> float(jnp.sum(state.weights))
      1.0
    """
    return aggregate(keyed(weights, key), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
