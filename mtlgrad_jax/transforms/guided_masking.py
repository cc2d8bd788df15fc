"""Gradient-guided masking of noisy examples as an Optax transformation."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax import weightings
from mtlgrad_jax.transforms._aggregate import build
from mtlgrad_jax.typing import StatefulWeighting


class GuidedMaskingState(NamedTuple):
    """What the last step kept, in the `memory` of the state."""

    num_kept: jax.Array  # () int32, of the B noisy examples


def guided_masking(
    num_tasks: int | None = None,
    *,
    clean_weight: float = 0.0,
    axis_name: str | tuple[str, ...] | None = None,
    nonfinite: str = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Train on the noisy examples whose gradient has a positive inner product with the clean gradient.

    u = c·g₀ + mean of {gᵢ : i ≥ 1, ⟨gᵢ,g₀⟩ > 0}

    Args:
      num_tasks: Number of rows, 1 + B; if given, it is checked and the state keeps `gram`, `weights`, `gap`
        and `memory.num_kept`.
      clean_weight: c, the weight of the clean gradient itself.
      axis_name: See `aggregate`.
      nonfinite: `"propagate"` or `"skip"`, see `aggregate`.

    Returns:
      An Optax transformation of stacked gradients: row 0 that of the clean set, rows 1 to B those of single
      noisy examples (`jax.vmap(jax.grad(loss), (None, 0))`). If nothing is kept and c = 0 the update is zero.
      Its update never raises the clean loss to first order; `gap`, the deepest conflict with any row, also
      counts the examples that were left out.

    Raises:
      ValueError: See `aggregate`; if `nonfinite` is `"drop_task"`, whose stand-in for a missing row would
        bring back examples that were left out.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> tx = mtl.guided_masking(num_tasks=4)
      >>> params = jnp.zeros(2)
      >>> rows = jnp.array([[1.0, 0.0], [2.0, 1.0], [-1.0, 3.0], [1.0, -5.0]])
      >>> update, state = tx.update(rows, tx.init(params), params)
      >>> update, int(state.memory.num_kept)
      (Array([ 1.5, -2. ], dtype=float32), 2)

    References:
      See `weightings.guided_masking`.
    """
    if nonfinite == "drop_task":
        raise ValueError(
            "guided_masking expected nonfinite='propagate' or 'skip', got 'drop_task'; a missing example is replaced "
            "by the mean of the others, which would bring back those that were masked."
        )
    weighting = partial(weightings.guided_masking, clean_weight=clean_weight)
    if num_tasks is not None:
        weighting = _recording(weighting)
    return build(weighting, num_tasks, axis_name=axis_name, nonfinite=nonfinite)


def _recording(weighting):
    def init(num_tasks):
        del num_tasks  # unused
        return GuidedMaskingState(jnp.zeros((), jnp.int32))

    def update(gram, state):
        del state  # only the last step is kept
        weights = weighting(gram)
        return weights, GuidedMaskingState(jnp.sum(weights[1:] > 0, dtype=jnp.int32))

    return StatefulWeighting(init, update)
