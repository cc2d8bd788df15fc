"""Inverse-norm weighting: every task pulls with the same force."""

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram, reciprocal, row_norms
from mtlgrad_jax.ground.presence import leave_out
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, Weights

CLAIMS = Claims(
    "unit gradients",
    keeps="PZF",
    sums_to="T/‖g‖",
    costs="closed form",
    variants={"two_tasks": {"keeps": "CPZF", "min_tasks": 2, "max_tasks": 2}},
    degree=-1,
)


def weights(gram: Gram, *, log2_scale: jax.Array | int = 0, present: jax.Array | None = None) -> Weights:
    """Weigh tasks by the inverse length of their gradients.

    Rescaling a loss changes nothing. For two tasks the sum of the unit vectors bisects their angle and
    conflicts with neither; for three it can: g₁ = g₂ = (1,0), g₃ = (−1,½) give ⟨g₃,u⟩ < 0.

    u = Σ gᵢ/‖gᵢ‖

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      log2_scale: k, if `gram` is that of 2⁻ᵏJ.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w = 1/‖gᵢ‖, shape `(T,)`, in units of 1/length; a zero gradient gets 0. If all tasks agree on a
      gradient g the weights sum to T/‖g‖, and the update has length T.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.inverse_norm(jnp.diag(jnp.array([4.0, 100.0, 0.0])))
      Array([0.5, 0.1, 0. ], dtype=float32)

    References:
      Su, scientific-spaces 8870, conclusion, and 8896. Physics-informed networks are trained with meanⱼ‖gⱼ‖/‖gᵢ‖, these
      weights times the mean length, computed every k steps and averaged (jaxpi): `every_k(smoothed(...), k)` around
      that; `benchmarks/pinn.py` has it, and weights by the traces of the neural tangent kernel.
    """
    check_gram(gram)
    return scale_by_power_of_two(reciprocal(row_norms(leave_out(gram, present))), -jnp.asarray(log2_scale))


def inverse_norm(
    num_tasks: int | None = None,
    *,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the sum of the unit vectors along the task gradients.

    Args:
      num_tasks: T, see `aggregate`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients. Its update has a length between 0 and T whatever
      the gradients' lengths; a zero gradient takes no part. `gap` is the deepest conflict.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.inverse_norm()
      >>> params = jnp.zeros(2)
      >>> update, _ = tx.update(jnp.array([[300.0, 0.0], [0.0, 0.1]]), tx.init(params), params)
      >>> update
      Array([1., 1.], dtype=float32)
    """
    return aggregate(weights, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
