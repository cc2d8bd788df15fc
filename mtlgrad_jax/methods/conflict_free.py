"""ConFIG: an equal angle with every gradient, and a length that follows their agreement."""

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram, dot, normalize_rows, reciprocal, without_scale
from mtlgrad_jax.ground.presence import leave_out
from mtlgrad_jax.methods import _spectral
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, Weights

CLAIMS = Claims("equal angles with all gradients", keeps="PF", sums_to="T", costs="T×T solve")


def weights(gram: Gram, *, present: jax.Array | None = None) -> Weights:
    """Weigh tasks so that the update makes the same acute angle with every gradient.

    The direction does not change when a loss is rescaled; the length is the sum of the projections of all
    gradients onto it, short in conflict and long in agreement.

    u = unit([ĝ₁ … ĝ_T]⁺1),  d = (Σᵢ ⟨gᵢ,u⟩)u;   in Gram form d = Jᵀw,  wᵢ = βᵢ/‖gᵢ‖·Σⱼ ‖gⱼ‖(Cβ)ⱼ/βᵀCβ,  β = C⁺1

    Args:
      gram: G = JJᵀ, shape `(T, T)`; the pseudo-inverse of the (T, P) matrix of unit gradients is not needed.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`; sums to T when all tasks agree (compare `sum`, not `mean`). With linearly dependent
      gradients the equal angle holds in the least-squares sense only. A zero gradient gets weight zero; in
      exact opposition all weights are zero.

    Raises:
      ValueError: If `gram` is not square.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> (mtl.weightings.conflict_free(task_grads @ task_grads.T) @ task_grads).tolist()
      [0.1588, 2.0706, 2.0706]

    References:
      Liu, Chu & Thuerey (ConFIG), arXiv 2408.11104, (2)–(3).
    """
    check_gram(gram)
    correlation, lengths = normalize_rows(without_scale(leave_out(gram, present)))
    shares = _spectral.equal_cosines(correlation, lengths > 0)
    cosines = dot(correlation, shares)
    square = dot(shares, cosines)
    length = jnp.where(square > 0, dot(lengths, cosines) / jnp.where(square > 0, square, 1), 0)
    return length * shares * reciprocal(lengths)


def conflict_free(
    num_tasks: int | None = None,
    *,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the direction that makes the same acute angle with every gradient.

    Args:
      num_tasks: T, see `aggregate`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.conflict_free(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(weights, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
