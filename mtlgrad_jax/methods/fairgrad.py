"""FairGrad: α-fair shares of progress."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.methods import _preference
from mtlgrad_jax.solvers import alpha_fair, fairness_gap
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Method, Nonfinite, PerTask, Weights

CLAIMS = Claims(
    "α-fair shares",
    keeps="CPF",
    sums_to="√T/‖g‖",
    costs="Newton",
    variants={
        "alpha_2": {"options": lambda num_tasks: {"alpha": 2.0}, "keeps": "PF", "degree": -4 / 3},
        "preference": {"options": lambda num_tasks: {"preference": jnp.arange(1.0, num_tasks + 1)}, "keeps": "CF"},
    },
    degree=-1,
)


def weights(
    gram: Gram,
    *,
    alpha: jax.Array | float = 1.0,
    preference: PerTask | None = None,
    log2_scale: jax.Array | int = 0,
) -> Weights:
    """Weigh tasks so that their progress is shared α-fairly.

    α = 1 is Nash bargaining without its limit on the length, α → 0 approaches the direction of the mean, and
    α → ∞ serves the worst-off task only. Every task gains: ⟨gᵢ,u⟩ = (wᵢ/Tpᵢ)^(−1/α) > 0.

    max_u Σ pᵢ⟨gᵢ,u⟩^(1−α)/(1−α)  in a ball;   Gw = (w/Tp)^(−1/α),  w > 0

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      alpha: α > 0.
      preference: p, shape `(T,)`, non-negative; 1/T each by default.
      log2_scale: k, if `gram` is that of 2⁻ᵏJ.

    Returns:
      w, shape `(T,)`, in units of length^(−2α/(1+α)); when all tasks agree on g they sum to
      T·(T‖g‖²)^(−α/(1+α)). A zero gradient gets weight zero. At a Pareto stationary point the equation has no
      solution and w = 0; published code returns where its least-squares iteration stopped.

    Raises:
      ValueError: If `alpha` is a number that is not positive, or `preference` not of shape `(T,)` or negative.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.weightings.fairgrad(task_grads @ task_grads.T).round(4)
      Array([0.5915, 0.4071], dtype=float32)

    References:
      Ban & Ji, "Fair resource allocation in multi-task learning", arXiv 2402.15638.
    """
    if isinstance(alpha, int | float) and not alpha > 0:
        raise ValueError(f"expected alpha to be positive, got {alpha}; for alpha = 0 use weightings.mean.")
    p = _preference.resolve(preference, gram)
    return alpha_fair(gram, alpha=alpha, preference=p, log2_scale=log2_scale).x


def fairgrad(
    num_tasks: int | None = None,
    *,
    alpha: jax.Array | float = 1.0,
    preference: PerTask | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow α-fair shares of progress, in which every task gains.

    Args:
      num_tasks: T, see `aggregate`.
      alpha: α > 0.
      preference: p, shape `(T,)`, non-negative; 1/T each by default.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients. `gap` is the inequality of (wᵢ/pᵢ)^(1/α)⟨gᵢ,u⟩ among
      tasks.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.fairgrad(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    certificate = lambda gram, w: fairness_gap(gram, w, alpha=alpha, preference=_preference.resolve(preference, gram))
    method = Method(partial(weights, alpha=alpha, preference=preference), certificate)
    return aggregate(method, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
