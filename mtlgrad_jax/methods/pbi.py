"""PBI: come down a ray, and pay for the distance from it."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from mtlgrad_jax.ground.grams import dot, reciprocal
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two
from mtlgrad_jax.methods import _preference
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, PerTask, Weights, without_gram

CLAIMS = Claims(
    "down a ray, and towards it",
    keeps="PLF",
    needs="L",
    sums_to="√T",
    costs="–",
    variants={"ray": {"options": lambda num_tasks: {"ray": jnp.arange(1.0, num_tasks + 1)}, "keeps": "L"}},
)


@without_gram
def weights(
    gram: Gram,
    *,
    losses: ArrayLike | None = None,
    ray: PerTask | None = None,
    theta: jax.Array | float = 5.0,
    ideal: ArrayLike = 0.0,
) -> Weights:
    """Weigh tasks so that the losses come down a ray, and towards it.

    The penalty is a distance, not its square, so that a finite θ puts the losses on the ray and not only near it.

    min ⟨L − z, r̂⟩ + θ‖e‖,   e = L − z − ⟨L − z, r̂⟩r̂;   w = r̂ + θ e/‖e‖

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape is used.
      losses: L, shape `(T,)`.
      ray: r, shape `(T,)`, the proportion in which the losses should end, of any positive sum; equal by default.
      theta: θ, what a unit of distance from the ray costs.
      ideal: z, where the ray starts, a number or shape `(T,)`.

    Returns:
      w, shape `(T,)`; sums to √T on the default ray. A task below the ray can have a *negative* weight: its loss is
      raised to reach the ray. Where the distance is below √ε·‖L − z‖, some hundredths of a degree, the
      penalty is quadratic, so that rounding has no direction. A loss that is not finite gets weight zero.

    Raises:
      ValueError: If losses are missing, or losses, ray or ideal are of the wrong shape, or the ray is not positive.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.pbi(jnp.eye(2), losses=jnp.array([4.0, 2.0]), ray=jnp.array([4.0, 3.0])).tolist()
      [3.8, -3.4]

    References:
      Zhang & Li (MOEA/D), IEEE Trans. Evol. Comput. 11 (2007), section III.C; θ = 5 as there.
    """
    losses = check_losses(losses, gram, "pbi")
    if jnp.ndim(ideal) > 0:
        ideal = check_losses(ideal, gram, "pbi", name="ideal")
    ray = _preference.resolve_positive(ray, gram, name="ray")
    along = ray / jnp.sqrt(dot(ray, ray))
    usable = jnp.isfinite(losses)
    excess = jnp.where(usable, losses, 0) - jnp.asarray(ideal, gram.dtype)
    excess = scale_by_power_of_two(excess, -exponent_of(jnp.max(jnp.abs(excess))))  # only its direction matters
    off = _across(along, _across(along, excess))  # the second time takes away what rounding left
    length = jnp.sqrt(dot(off, off))
    tube = jnp.sqrt(jnp.finfo(gram.dtype).eps * dot(excess, excess))
    return jnp.where(usable, along + jnp.asarray(theta, gram.dtype) * off * reciprocal(jnp.maximum(length, tube)), 0)


def _across(along, vector):
    return vector - dot(vector, along) * along


def pbi(
    num_tasks: int | None = None,
    *,
    ray: PerTask | None = None,
    theta: jax.Array | float = 5.0,
    ideal: ArrayLike = 0.0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Bring the losses down a ray, and towards it.

    Args:
      num_tasks: T, see `aggregate`.
      ray: r, shape `(T,)`, the proportion in which the losses should end; equal by default.
      theta: θ, what a unit of distance from the ray costs.
      ideal: z, where the ray starts.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.pbi(num_tasks=2, ray=jnp.array([4.0, 3.0]))
      >>> update, state = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)), losses=jnp.array([4.0, 2.0]))
      >>> state.weights.tolist()
      [3.8, -3.4]
    """
    weigh = partial(weights, ray=ray, theta=theta, ideal=ideal)
    return aggregate(weigh, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
