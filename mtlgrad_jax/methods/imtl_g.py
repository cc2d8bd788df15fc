"""IMTL-G: the update makes the same angle with every gradient."""

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram, normalize_rows, reciprocal
from mtlgrad_jax.ground.presence import leave_out
from mtlgrad_jax.methods import _spectral
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, Weights

CLAIMS = Claims("equal projections on all gradients", keeps="PF", sums_to="1", costs="T×T solve")


def weights(gram: Gram, *, present: jax.Array | None = None) -> Weights:
    """Weigh tasks so that the update has the same projection onto every gradient's direction.

    The direction does not change when a loss is rescaled.

    ⟨u,gᵢ⟩/‖gᵢ‖ equal for all i,  Σ wᵢ = 1;   w = v/Σv,  v = D⁻¹C⁺1,  C = D⁻¹GD⁻¹,  D = diag ‖gᵢ‖

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`; the weights sum to one. Where Σv < 0, which takes three tasks in conflict, the paper's
      formula as implemented here climbs every loss, and near Σv = 0 its weights are long. The pseudo-inverse
      is that of the cosines, so that parallel gradients get the limit of nearly parallel ones; others
      take that of G, which differs when G is singular. A zero gradient gets weight zero; so do
      all tasks if no combination has a positive projection (exact opposition).

    Raises:
      ValueError: If `gram` is not square.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.weightings.imtl_g(task_grads @ task_grads.T).round(4)
      Array([0.5923, 0.4077], dtype=float32)

    References:
      Liu et al., "Towards impartial multi-task learning" (ICLR 2021), (5)–(7).
    """
    check_gram(gram)
    correlation, lengths = normalize_rows(leave_out(gram, present))
    shares = _spectral.equal_cosines(correlation, lengths > 0)
    shortest = jnp.min(jnp.where(lengths > 0, lengths, jnp.max(lengths)))
    shares = shares * shortest * reciprocal(lengths)
    total = jnp.sum(shares)
    return jnp.where(total != 0, shares / jnp.where(total != 0, total, 1), 0)


def imtl_g(
    num_tasks: int | None = None,
    *,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the update that has the same projection onto every gradient.

    Args:
      num_tasks: T, see `aggregate`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.imtl_g(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(weights, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
