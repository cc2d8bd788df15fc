"""The sum of the task gradients."""

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram
from mtlgrad_jax.ground.presence import only
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, Weights, without_gram

CLAIMS = Claims("equal weights", keeps="PLZF", sums_to="T", costs="–")


@without_gram
def weights(gram: Gram, *, present: jax.Array | None = None) -> Weights:
    """Weigh every task by one.

    Gradient descent on the sum of the losses: `mean` with a T times larger learning rate.

    wᵢ = 1

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape matters.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`; the weights always sum to T.

    Raises:
      ValueError: If `gram` is not square.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.sum(jnp.eye(2))
      Array([1., 1.], dtype=float32)
    """
    check_gram(gram)
    return only(jnp.ones_like(gram[0]), present)


def sum(
    num_tasks: int | None = None,
    *,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the sum of the task gradients, the gradient of the summed loss.

    Args:
      num_tasks: T, see `aggregate`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.sum(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(weights, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
