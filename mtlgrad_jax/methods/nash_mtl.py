"""Nash-MTL: the bargain in which every task gains in proportion to what it gives."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import dot, reciprocal
from mtlgrad_jax.ground.presence import leave_out
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.methods import _preference
from mtlgrad_jax.solvers import alpha_fair, fairness_gap
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Method, Nonfinite, PerTask, Weights

CLAIMS = Claims(
    "Nash bargain",
    keeps="CPF",
    sums_to="min(√T, 1)/‖g‖",
    costs="Newton",
    variants={
        "preference": {"options": lambda num_tasks: {"preference": jnp.arange(1.0, num_tasks + 1)}, "keeps": "CF"}
    },
    degree=-1,
)


def weights(
    gram: Gram,
    *,
    max_norm: jax.Array | float | None = 1.0,
    preference: PerTask | None = None,
    log2_scale: jax.Array | int = 0,
    present: jax.Array | None = None,
) -> Weights:
    """Weigh tasks by the Nash bargaining solution, in which the product of their gains is largest.

    Rescaling a loss changes nothing, and no task is hurt: every one gains ⟨gᵢ,u⟩ = Tpᵢ/wᵢ.

    max_u Σ pᵢ log⟨gᵢ,u⟩  in a ball;   Gw = Tp/w,  w > 0

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      max_norm: Longest update; the solution of Gw = 1/w always has length √T, so that for values below it the
        update has exactly this length. None for no limit.
      preference: p, shape `(T,)`, non-negative, the bargaining power of each task; 1/T each by default.
      log2_scale: k, if `gram` is that of 2⁻ᵏJ.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`, in units of 1/length; when all tasks agree on g they sum to min(√T, max_norm)/‖g‖. A
      zero gradient gets weight zero and the others bargain. At a Pareto stationary point there is no bargain,
      and the disagreement point is no update: w = 0. Published code divides G by its norm first and keeps
      that factor in w, so that only its clipped updates are those of the paper.

    Raises:
      ValueError: If `gram` is not square, or `preference` is not of shape `(T,)` or negative.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.nash_mtl(jnp.diag(jnp.array([4.0, 1.0])), max_norm=None)
      Array([0.5, 1. ], dtype=float32)

    References:
      Navon et al., "Multi-task learning as a bargaining game", arXiv 2202.01017, claim 3.1; with bargaining powers:
      Kalai, "Nonsymmetric Nash solutions", Int. J. Game Theory 6 (1977).
    """
    p, gram = _preference.resolve_relative(preference, gram, present) / gram.shape[0], leave_out(gram, present)
    weights = alpha_fair(gram, preference=p).x
    if max_norm is not None:
        # The length belongs to 2⁻ᵏJ with its weights 2ᵏw: it needs no rescaling.
        square = dot(weights, dot(gram, weights))
        length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
        weights = weights * jnp.minimum(jnp.asarray(max_norm, gram.dtype) * reciprocal(length), 1)
    return scale_by_power_of_two(weights, -jnp.asarray(log2_scale))


def _gap(gram, weights, *, preference, present=None):
    p = _preference.resolve(preference, gram, present)
    return fairness_gap(leave_out(gram, present), weights, preference=p)


def nash_mtl(
    num_tasks: int | None = None,
    *,
    max_norm: jax.Array | float | None = 1.0,
    preference: PerTask | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the Nash bargain of the tasks, in which every one gains.

    Args:
      num_tasks: T, see `aggregate`.
      max_norm: Longest update; the solution of Gw = 1/w always has length √T, so that for values below it the
        update has exactly this length. None for no limit.
      preference: p, shape `(T,)`, the bargaining power of each task; 1/T each by default.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients. `gap` is the inequality of wᵢ⟨gᵢ,u⟩/pᵢ among
      tasks.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.nash_mtl(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    method = Method(partial(weights, max_norm=max_norm, preference=preference), partial(_gap, preference=preference))
    return aggregate(method, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
