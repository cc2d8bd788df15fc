"""Scale-invariant weighting: the gradient of the sum of the logarithms."""

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from mtlgrad_jax.ground.logarithms import exp_in_range, log_losses
from mtlgrad_jax.ground.presence import only
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, Weights, without_gram

CLAIMS = Claims("sum of log losses", keeps="PLZF", needs="L", sums_to="T/L", costs="–")


@without_gram
def weights(gram: Gram, *, losses: ArrayLike | None = None, present: jax.Array | None = None) -> Weights:
    """Weigh tasks so that the update is the gradient of the sum of the logarithms of the losses.

    Multiplying any loss by a constant changes nothing at all, the length of the update included.

    min Σ log Lᵢ,   wᵢ = 1/Lᵢ

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape is used.
      losses: L, shape `(T,)`, positive.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`, at most √(largest float). The weights sum to Σ 1/Lᵢ, whether tasks agree or not: they
      are not normalised. A loss that is not positive has no logarithm: its task gets weight zero.

    Raises:
      ValueError: If losses are missing or of the wrong shape.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.si(jnp.eye(2), losses=jnp.array([1.0, 4.0]))
      Array([1.  , 0.25], dtype=float32)

    References:
      Su, scientific-spaces 8870; Navon et al., arXiv 2202.01017, where it is the baseline SI.
    """
    logs, usable = log_losses(only(check_losses(losses, gram, "si"), present))
    return jnp.where(usable, exp_in_range(-logs), 0)


def si(
    num_tasks: int | None = None,
    *,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the gradient of the sum of the logarithms of the losses.

    Args:
      num_tasks: T, see `aggregate`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.si(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([1.  , 0.25], dtype=float32)
    """
    return aggregate(weights, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
