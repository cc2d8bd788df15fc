"""CAGrad: near the average gradient, what serves the worst-off task best."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.methods import _preference
from mtlgrad_jax.solvers import max_min_gap, max_min_in_ball
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Method, Nonfinite, PerTask, Weights

CLAIMS = Claims(
    "best worst case near the mean",
    keeps="PZF",
    sums_to="1 + c",
    costs="program",
    variants={
        "wide": {"options": lambda num_tasks: {"c": 1.0, "rescale": "1+c^2"}, "keeps": "PF"},
        "preference": {"options": lambda num_tasks: {"preference": jnp.arange(1.0, num_tasks + 1)}, "keeps": "F"},
    },
)


Rescale = Literal["none", "1+c", "1+c^2"]
RESCALES = get_args(Rescale)


def weights(
    gram: Gram, *, c: jax.Array | float = 0.4, rescale: Rescale = "none", preference: PerTask | None = None
) -> Weights:
    """Weigh tasks so that the worst-off task gains most among updates near the average gradient.

    With c = 0 it is the mean; as c grows it approaches the direction of MGDA. It may hurt a task when c < 1.

    max_d min_i ⟨gᵢ,d⟩  s.t.  ‖d − g₀‖ ≤ c‖g₀‖, g₀ = Jᵀp;
    d = g₀ + c‖g₀‖/‖g_α‖·g_α,  α = argmin_{α∈Δ} g_αᵀg₀ + c‖g₀‖‖g_α‖

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      c: Radius of the ball relative to the average gradient g₀.
      rescale: The update is divided by 1 (`"none"`, the paper's algorithm), 1 + c or 1 + c² (options of the
        official code, which uses 1 + c² in its multi-task experiments).
      preference: p, shape `(T,)`, of the average g₀; 1/T each by default.

    Returns:
      w = p + c‖g₀‖/‖g_α‖·α, shape `(T,)`; sums to 1 + c when all tasks agree, divided as `rescale` says.
      Where g_α = 0 (Pareto stationary) the formula has no value and published code returns zero or g₀: here it
      is the optimal d nearest to g₀, which hurts no task if one in the ball does not.

    Raises:
      ValueError: If `rescale` is unknown, `c` a negative number, or `preference` not of shape `(T,)` or negative.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.weightings.cagrad(task_grads @ task_grads.T, c=0.5).round(4)
      Array([0.7041, 0.5   ], dtype=float32)

    References:
      Liu et al., "Conflict-averse gradient descent for multi-task learning", arXiv 2110.14048.
    """
    p = _preference.resolve(preference, gram)
    if isinstance(c, int | float) and not c >= 0:
        raise ValueError(f"cagrad expected c of at least zero, got {c}; c = 0 is the mean.")
    return (p + max_min_in_ball(gram, p, c).x) / _divisor(c, rescale, gram)


def cagrad_gap(
    gram: Gram,
    weights: Weights,
    *,
    c: jax.Array | float = 0.4,
    rescale: Rescale = "none",
    preference: PerTask | None = None,
) -> jax.Array:
    """Measure how far weights are from CAGrad's, by the duality gap of its program.

    Args:
      gram: G, shape `(T, T)`.
      weights: What `cagrad` returned, shape `(T,)`.
      c: As in `cagrad`.
      rescale: As in `cagrad`.
      preference: As in `cagrad`.

    Returns:
      A non-negative scalar, see `max_min_gap`.

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.methods.cagrad import cagrad_gap
      >>> float(cagrad_gap(jnp.eye(2), jnp.array([0.5, 0.5]), c=0.0))
      0.0
    """
    p = _preference.resolve(preference, gram)
    return max_min_gap(gram, p, c, jnp.maximum(weights * _divisor(c, rescale, gram) - p, 0))


def _divisor(c, rescale, gram):
    if rescale not in RESCALES:
        raise ValueError(f"expected rescale to be one of {', '.join(map(repr, RESCALES))}, got {rescale!r}.")
    return jnp.asarray({"none": 1.0, "1+c": 1.0 + c, "1+c^2": 1.0 + c * c}[rescale], gram.dtype)


def cagrad(
    num_tasks: int | None = None,
    *,
    c: jax.Array | float = 0.4,
    rescale: Rescale = "none",
    preference: PerTask | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the update near the mean gradient that serves the worst-off task best.

    Args:
      num_tasks: T, see `aggregate`.
      c: Radius of the ball relative to the average gradient g₀.
      rescale: The update is divided by 1 (`"none"`, the paper's algorithm), 1 + c or 1 + c² (options of the
        official code, which uses 1 + c² in its multi-task experiments).
      preference: p, shape `(T,)`, of the average g₀; 1/T each by default.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients. `gap` is the duality gap of its program.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.cagrad(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    options = {"c": c, "rescale": rescale, "preference": preference}
    method = Method(partial(weights, **options), partial(cagrad_gap, **options))
    return aggregate(method, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
