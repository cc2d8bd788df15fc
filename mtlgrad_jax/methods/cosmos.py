"""COSMOS: the weighted sum of the losses, with a reward for lying along a ray."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from mtlgrad_jax.ground.grams import dot, reciprocal
from mtlgrad_jax.methods import _preference
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, PerTask, Weights, without_gram

CLAIMS = Claims(
    "weighted sum, drawn to a ray",
    keeps="PL",
    needs="L",
    sums_to="1",
    costs="–",
    variants={"ray": {"options": lambda num_tasks: {"ray": jnp.arange(1.0, num_tasks + 1)}, "keeps": "L"}},
)


@without_gram
def weights(
    gram: Gram, *, losses: ArrayLike | None = None, ray: PerTask | None = None, strength: jax.Array | float = 2.0
) -> Weights:
    """Weigh tasks so that their weighted sum falls and the losses turn towards a ray.

    Smooth, and made for one network that is conditioned on the ray. The losses end near the ray and not on it: the
    sum has its own optimum, and λ decides between the two.

    min Σ rᵢLᵢ − λ cos(r, L);   w = r − λ(r̂ − cos(r, L)·L̂)/‖L‖

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape is used.
      losses: L, shape `(T,)`, positive.
      ray: r, shape `(T,)`, the proportion in which the losses should end, of any positive sum; equal by default.
      strength: λ, in the unit of a loss; the paper uses 0.01 to 8.

    Returns:
      w, shape `(T,)`; the weights sum to one where the losses lie on the ray. A task below the ray can have a
      *negative* weight. A loss that is not finite gets weight zero.

    Raises:
      ValueError: If losses are missing, or losses or ray are of the wrong shape, or the ray is not positive.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.cosmos(jnp.eye(2), losses=jnp.array([4.0, 3.0]), ray=jnp.array([4.0, 3.0])).tolist()
      [0.571, 0.429]

    References:
      Ruchte & Grabocka (COSMOS), ICDM 2021, arXiv 2103.13392, (6).
    """
    losses = check_losses(losses, gram, "cosmos")
    ray = _preference.resolve_positive(ray, gram, name="ray")
    usable = jnp.isfinite(losses)
    known = jnp.where(usable, losses, 0)
    unit = reciprocal(jnp.max(jnp.abs(known)))
    known = known * unit
    inverse = reciprocal(jnp.sqrt(dot(known, known)))
    toward, now = ray / jnp.sqrt(dot(ray, ray)), known * inverse
    turn = (toward - dot(toward, now) * now) * inverse
    return jnp.where(usable, ray - jnp.asarray(strength, gram.dtype) * unit * turn, 0)


def cosmos(
    num_tasks: int | None = None,
    *,
    ray: PerTask | None = None,
    strength: jax.Array | float = 2.0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the weighted sum of the losses, and turn the losses towards a ray.

    Args:
      num_tasks: T, see `aggregate`.
      ray: r, shape `(T,)`, the proportion in which the losses should end; equal by default.
      strength: λ, in the unit of a loss.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.cosmos(num_tasks=2, ray=jnp.array([4.0, 3.0]))
      >>> update, state = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), losses=jnp.array([4.0, 3.0]))
      >>> state.weights.tolist()
      [0.571, 0.429]
    """
    return aggregate(partial(weights, ray=ray, strength=strength), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
