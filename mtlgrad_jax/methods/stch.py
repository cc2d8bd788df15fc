"""Smooth Tchebycheff: the gradient of a smooth maximum of the losses."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from mtlgrad_jax.ground.grams import reciprocal
from mtlgrad_jax.ground.logarithms import softmax_where
from mtlgrad_jax.ground.presence import everyone, only
from mtlgrad_jax.methods import _preference
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, PerTask, Weights, without_gram

CLAIMS = Claims("smooth maximum of the losses", keeps="PLZF", needs="L", sums_to="1/T", costs="–")


@without_gram
def weights(
    gram: Gram,
    *,
    losses: ArrayLike | None = None,
    mu: float = 1.0,
    preference: PerTask | None = None,
    ray: PerTask | None = None,
    ideal: ArrayLike = 0.0,
    present: jax.Array | None = None,
) -> Weights:
    """Weigh tasks so that the update is the gradient of the smooth Tchebycheff scalarisation.

    The largest weighted excess over the ideal losses counts most; a small μ looks at the worst task only, a
    large one weighs by preference. Every Pareto optimal point is the minimum for some preference, and for a small μ it
    lies where L − z is proportional to 1/p: p is an *inverse* ray. Who has a ray says `ray=`.

    min μ log Σ exp(pᵢ(Lᵢ − zᵢ)/μ),   wᵢ = pᵢ softmaxᵢ(p∘(L − z)/μ)

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape is used.
      losses: L, shape `(T,)`, of any sign.
      mu: μ > 0, in the unit of a loss.
      preference: p, shape `(T,)`, positive; 1/T each by default.
      ray: r in place of p, shape `(T,)`, the proportion in which the excesses should end: p = (1/r)/Σ(1/r).
      ideal: z, the lowest losses thought possible, a number or shape `(T,)`.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`, not negative. With uniform preference the weights sum to 1/T, since p enters twice;
      published code multiplies by T. A loss that is not finite gets weight zero.

    Raises:
      ValueError: If losses are missing, or losses, preference, ray or ideal are of the wrong shape, or there are both a
        preference and a ray.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.stch(jnp.eye(2), losses=jnp.array([2.0, 2.0]))
      Array([0.25, 0.25], dtype=float32)

    References:
      Lin et al., arXiv 2402.19078, (6). Their multi-task code has no p and minimises Tμ log Σ (Lᵢ/nadirᵢ)^(1/μ):
      T² times `on_log_losses(partial(stch, mu=mu / T, ideal=jnp.log(nadir)))`; the nadir is the mean loss in the epoch
      after a warm-up of `si`.
    """
    losses = check_losses(losses, gram, "stch")
    share = _share(preference, ray, gram, present)
    if jnp.ndim(ideal) > 0:
        ideal = check_losses(ideal, gram, "stch", name="ideal")
    usable = everyone(present, losses) & jnp.isfinite(losses)
    excess = share * (jnp.where(usable, losses, 0) - jnp.asarray(ideal, gram.dtype)) / jnp.asarray(mu, gram.dtype)
    limit = jnp.finfo(gram.dtype).max / 4  # differences of two stay finite
    return share * softmax_where(jnp.clip(excess, -limit, limit), usable)


def _share(preference, ray, gram, present):
    if ray is None:
        return _preference.resolve(preference, gram, present)
    if preference is not None:
        raise ValueError("stch expected a preference or a ray, got both; a ray is the inverse of a preference.")
    inverse = only(1 / _preference.resolve_positive(ray, gram, present, name="ray"), present)
    return inverse * reciprocal(jnp.sum(inverse))


def stch(
    num_tasks: int | None = None,
    *,
    mu: float = 1.0,
    preference: PerTask | None = None,
    ray: PerTask | None = None,
    ideal: ArrayLike = 0.0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the gradient of a smooth maximum of the losses.

    Args:
      num_tasks: T, see `aggregate`.
      mu: μ > 0, in the unit of a loss; small for the worst task only.
      preference: p, shape `(T,)`; 1/T each by default.
      ray: r in place of p, the proportion in which losses should end, for a small μ.
      ideal: z, the lowest losses thought possible.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.stch(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> jnp.round(state.weights, 4)
      Array([0.0912, 0.4088], dtype=float32)
    """
    return aggregate(
        partial(weights, mu=mu, preference=preference, ray=ray, ideal=ideal),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
    )
