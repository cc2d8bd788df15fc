"""EPO: to the Pareto front, and along it to the point where a ray meets it."""

from functools import partial

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from mtlgrad_jax.ground.grams import dot, without_scale
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two
from mtlgrad_jax.methods import _preference
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.solvers import min_norm, nnls
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, PerTask, Weights

CLAIMS = Claims(
    "to where a ray meets the front",
    keeps="PF",
    needs="L",
    sums_to="1",
    costs="2 programs",
    variants={"ray": {"options": lambda num_tasks: {"ray": jnp.arange(1.0, num_tasks + 1)}, "keeps": "F"}},
)
LEAST_SHARE = 1e-3  # of its even share, at which the pull on a loss far below the ray no longer grows


def weights(gram: Gram, *, losses: ArrayLike | None = None, ray: PerTask | None = None) -> Weights:
    """Weigh tasks so that all losses fall along a ray while they are balanced towards it.

    Two parts. The first is MGDA in the units of the ray: it lowers all losses, the worst relative to r as much as it
    can, and vanishes on the Pareto front. The second lowers the non-uniformity μ of L/r, as far as that hurts no task
    above the ray, and vanishes on the ray; it may raise a loss below it, and so moves along the front. Both vanish only
    where the ray meets the front, or where no step balances without hurting a task above the ray.

    With g̃ᵢ = gᵢ/(T rᵢ), l̂ = (L/r)/Σ(L/r), μ = Σ l̂ᵢ log(T l̂ᵢ), aᵢ = log(T l̂ᵢ) − μ:
    w̃ = α + (a + x)/T,   α = argmin_{α∈Δ} ‖J̃ᵀα‖²,   x = argmin_{x≥0} ½‖J̃ᵀ(a + x)‖² − Σ xⱼ min(⟨g̃ⱼ,J̃ᵀa⟩, 0)[aⱼ ≤ 0]

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      losses: L, shape `(T,)`, positive.
      ray: r, shape `(T,)`, the proportion in which the losses should end, of any positive sum; equal by default.

    Returns:
      wᵢ = w̃ᵢ/(T rᵢ), shape `(T,)`; on the ray they sum to one if it is even and the tasks agree. A weight can be
      negative. Losses that are not positive and finite count as none, and only the first part is
      left where no loss is positive.

    Raises:
      ValueError: If losses are missing, or losses or ray are of the wrong shape, or the ray is not positive.

    Example:
      On the front, where the gradients are opposed, the losses move towards the ray:

      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> opposed = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
      >>> first, second = mtl.weightings.epo(opposed, losses=jnp.array([2.0, 1.0]))
      >>> bool(first > second)
      True

    References:
      Mahapatra & Rajan (EPO), ICML 2020 and arXiv 2010.06313, whose a, μ and aims these are. There a linear program
      over the simplex balances until μ < ε, and another descends; a projection and MGDA take their places, so that w
      is continuous where the sides of the ray do not change, and there is no ε.
    """
    losses = check_losses(losses, gram, "epo")
    ray = _preference.resolve_positive(ray, gram, name="ray")
    unit = 1 / (gram.shape[0] * ray)
    finite = jnp.isfinite(losses)
    pull = _pull(_without_unit(jnp.where(finite, jnp.maximum(losses, 0), 0)) * unit)
    scaled = without_scale(without_scale(gram) * unit[:, None] * unit[None, :])
    along = dot(scaled, pull)
    allowed = jnp.where(pull > 0, 0, jnp.minimum(along, 0))
    balance = pull + nnls(scaled, along - allowed).x
    return (min_norm(scaled).x + balance / gram.shape[0]) * unit


def _without_unit(losses):
    """Bring the largest loss between one and two."""
    return scale_by_power_of_two(losses, -exponent_of(jnp.max(losses)))


def _pull(relative):
    """Return a, the gradient of the non-uniformity of L/r with respect to it, times its sum."""
    num_tasks = relative.shape[0]
    relative = jnp.where(jnp.max(relative) > 0, relative, 1)
    share = num_tasks * relative / jnp.sum(relative)
    logs = jnp.log(jnp.maximum(share, LEAST_SHARE))
    return logs - dot(share, logs) / num_tasks


def epo(
    num_tasks: int | None = None,
    *,
    ray: PerTask | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Go to the Pareto front, and along it to the point where a ray meets it.

    Args:
      num_tasks: T, see `aggregate`.
      ray: r, shape `(T,)`, the proportion in which the losses should end; equal by default.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`. Losses should be
      positive, with zero as good as it gets.

    Example:
      One loss may stay four times the other:

      >>> import jax, jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> def losses_fn(x):
      ...     return jnp.stack([jnp.sum((x - 1) ** 2), jnp.sum((x + 1) ** 2)])
      >>> tx, params = optax.chain(mtl.epo(ray=jnp.array([0.2, 0.8])), optax.sgd(0.1)), jnp.array([0.5, 2.0])
      >>> for _ in range(200):
      ...     losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
      ...     updates, _ = tx.update(task_grads, tx.init(params), params, losses=losses)
      ...     params = optax.apply_updates(params, updates)
      >>> (losses / losses.sum()).round(3)
      Array([0.2, 0.8], dtype=float32)
    """
    return aggregate(partial(weights, ray=ray), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
