"""The gradient of the geometric mean of the losses."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from mtlgrad_jax.ground.logarithms import exp_in_range, log_losses
from mtlgrad_jax.ground.presence import only
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, Weights, without_gram

CLAIMS = Claims("geometric mean of the losses", keeps="PLZF", needs="L", sums_to="1", costs="–")


@without_gram
def weights(gram: Gram, *, losses: ArrayLike | None = None, present: jax.Array | None = None) -> Weights:
    """Weigh tasks so that the update is the gradient of the geometric mean of the losses.

    A task's pull is relative to its loss, and multiplying any loss by a constant changes the length of the
    update only.

    L = (∏ Lᵢ)^{1/T},   wᵢ = L / (T Lᵢ)

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape is used.
      losses: L, shape `(T,)`, positive.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`, at most √(largest float). The weights sum to one when all losses are equal, to more
      otherwise. A loss that is not positive has no logarithm: its task gets weight zero, and the mean is that
      of the others.

    Raises:
      ValueError: If losses are missing or of the wrong shape.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.geometric(jnp.eye(2), losses=jnp.array([1.0, 4.0]))
      Array([1.  , 0.25], dtype=float32)

    References:
      Chennupati et al. (MultiNet++), CVPR workshops 2019.
    """
    logs, usable = log_losses(only(check_losses(losses, gram, "geometric"), present))
    count = jnp.maximum(jnp.sum(usable.astype(gram.dtype)), 1)
    mean = jnp.sum(logs) / count
    return jnp.where(usable, exp_in_range(mean - logs) / count, 0)


def geometric(
    num_tasks: int | None = None,
    *,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the gradient of the geometric mean of the losses.

    Args:
      num_tasks: T, see `aggregate`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.geometric(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([1.  , 0.25], dtype=float32)
    """
    return aggregate(weights, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
