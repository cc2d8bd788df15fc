"""The average of the task gradients."""

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram
from mtlgrad_jax.ground.presence import number
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, Weights, without_gram

CLAIMS = Claims("equal weights", keeps="PLZF", sums_to="1", costs="–")


@without_gram
def weights(gram: Gram, *, present: jax.Array | None = None) -> Weights:
    """Weigh all tasks alike, with weights that sum to one.

    The baseline: gradient descent on the average loss. It may hurt tasks.

    wᵢ = 1/T

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape matters.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`; the weights always sum to one.

    Raises:
      ValueError: If `gram` is not square.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.mean(jnp.eye(4))
      Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    num_tasks = check_gram(gram)
    if present is None:
        return jnp.full_like(gram[0], 1 / num_tasks)
    return present.astype(gram.dtype) / number(present, gram.dtype)


def mean(
    num_tasks: int | None = None,
    *,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the mean of the task gradients.

    Args:
      num_tasks: T, see `aggregate`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.mean(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(weights, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
