"""DCGD: two losses, and a direction inside the cone that hurts neither."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram, reciprocal, row_norms, without_scale
from mtlgrad_jax.ground.presence import leave_out, only
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, Weights

CLAIMS = Claims(
    "sum of two, moved into the dual cone",
    keeps="CPZF",
    sums_to="T",
    costs="closed form",
    min_tasks=2,
    max_tasks=2,
    variants={
        "projection": {"options": lambda num_tasks: {"variant": "projection"}},
        "average": {"options": lambda num_tasks: {"variant": "average"}},
    },
)


Variant = Literal["center", "projection", "average"]
VARIANTS = get_args(Variant)


def weights(gram: Gram, *, variant: Variant = "center", present: jax.Array | None = None) -> Weights:
    """Weigh two tasks so that their summed gradient moves into the cone that hurts neither.

    Made for physics-informed networks, whose residual and boundary losses pull apart.

    With g = g₁ + g₂:  center ⟨c,g⟩/‖c‖²·c, c = ĝ₁ + ĝ₂;  projection g without its component along the
    gradient it conflicts with;  average ½Σᵢ (g − ⟨g,gᵢ⟩/‖gᵢ‖²·gᵢ), where g conflicts with one of them

    Args:
      gram: G = JJᵀ, shape `(2, 2)`.
      variant: `"center"`, `"projection"` (dualproj with p = (1, 1)) or `"average"`. The last two leave g as it
        is where it conflicts with neither.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(2,)`; sums to two when both tasks agree (compare `sum`). The factor 1 + cos cancels in
      "center", wᵢ = (‖g₁‖ + ‖g₂‖)/(2‖gᵢ‖), so nothing is divided by the length of c, which published code
      guards by an absolute constant. If a gradient is zero, the update is the other one.

    Raises:
      ValueError: If there are not two tasks, or `variant` is unknown.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[2.0, 0.0], [-3.0, 4.0]])
      >>> mtl.weightings.dcgd(task_grads @ task_grads.T).round(4)
      Array([1.75, 0.7 ], dtype=float32)

    References:
      Hwang & Lim, "Dual cone gradient descent", arXiv 2409.18426, algorithms 1–4.
    """
    if check_gram(gram) != 2:
        raise ValueError(f"dcgd expected the Gram matrix of two tasks, got {gram.shape}; add losses up to two groups.")
    if variant not in VARIANTS:
        raise ValueError(f"expected variant to be one of {', '.join(map(repr, VARIANTS))}, got {variant!r}.")
    gram = without_scale(leave_out(gram, present))
    lengths = row_norms(gram)
    if variant == "center":
        count = jnp.maximum(jnp.sum((lengths > 0).astype(gram.dtype)), 1)
        return jnp.sum(lengths) / count * reciprocal(lengths)
    squares = jnp.diagonal(gram)
    shares = gram[0, 1] * reciprocal(squares)  # ⟨g₁,g₂⟩/‖gᵢ‖²
    conflicts = squares + gram[0, 1] < 0
    if variant == "projection":
        return only(jnp.where(conflicts, -shares, 1), present)
    return only(jnp.where(jnp.any(conflicts), (1 - shares) / 2, 1), present)


def dcgd(
    num_tasks: int | None = None,
    *,
    variant: Variant = "center",
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the sum of two gradients, moved to where it hurts neither.

    Args:
      num_tasks: T, see `aggregate`.
      variant: `"center"`, `"projection"` (dualproj with p = (1, 1)) or `"average"`. The last two leave g as it
        is where it conflicts with neither.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.dcgd(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(partial(weights, variant=variant), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
