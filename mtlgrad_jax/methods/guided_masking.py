"""Gradient-guided masking: keep the noisy examples whose gradient agrees with a clean one."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram
from mtlgrad_jax.ground.presence import leave_out, only
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Method, Nonfinite, StatefulWeighting, Weights

CLAIMS = Claims("examples that agree with clean ones", keeps="F", sums_to="1", costs="closed form", min_tasks=2)


def weights(gram: Gram, *, clean_weight: float = 0.0, present: jax.Array | None = None) -> Weights:
    """Weigh examples so that those whose gradient opposes the clean gradient are left out.

    Row 0 is the gradient on trusted data, the other B rows are the gradients of single examples with possibly
    wrong labels. Where `primary_aux` corrects the sum of the noisy gradients, this drops examples one by one.

    u = c·g₀ + mean of {gᵢ : i ≥ 1, ⟨gᵢ,g₀⟩ > 0}

    Args:
      gram: G = JJᵀ, shape `(1 + B, 1 + B)`, the clean gradient in row 0. Only that row is read.
      clean_weight: c, the weight of the clean gradient itself; 0 uses it as a judge only.
      present: Booleans, shape `(1 + B,)`; other examples are left out, and all of them without the clean gradient.
        All by default.

    Returns:
      w, shape `(1 + B,)`: 1/n on the n examples kept, 0 on the others, c on row 0. The weights of the
      examples sum to one if any is kept (so also when all agree), to zero if none is: then the update is
      c·g₀. A zero gradient, clean or noisy, agrees with nothing.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[1.0, 0.0], [2.0, 1.0], [-1.0, 3.0], [1.0, -5.0]])
      >>> mtl.weightings.guided_masking(task_grads @ task_grads.T)
      Array([0. , 0.5, 0. , 0.5], dtype=float32)

    References:
      Wang et al., "Gradient-guided loss masking for neural machine translation", arXiv 2102.13549.
    """
    num_tasks, gram = check_gram(gram), leave_out(gram, present)
    kept = ((gram[0] > 0) & (jnp.arange(num_tasks) > 0)).astype(gram.dtype)
    weights = kept / jnp.maximum(jnp.sum(kept), 1)
    return only(weights.at[0].set(jnp.asarray(clean_weight, gram.dtype)), present)


class GuidedMaskingState(NamedTuple):
    """What the last step kept, in the `memory` of the state."""

    num_kept: jax.Array  # () int32, of the B noisy examples


def guided_masking(
    num_tasks: int | None = None,
    *,
    clean_weight: float = 0.0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Train on the noisy examples whose gradient has a positive inner product with the clean gradient.

    Args:
      num_tasks: T, see `aggregate`.
      clean_weight: c, the weight of the clean gradient itself.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked gradients: row 0 that of the clean set, rows 1 to B those of single
      noisy examples (`jax.vmap(jax.grad(loss), (None, 0))`). If nothing is kept and c = 0 the update is zero.
      Its update never raises the clean loss to first order; `gap`, the deepest conflict with any row, also
      counts the examples that were left out.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.guided_masking(num_tasks=4)
      >>> params = jnp.zeros(2)
      >>> rows = jnp.array([[1.0, 0.0], [2.0, 1.0], [-1.0, 3.0], [1.0, -5.0]])
      >>> update, state = tx.update(rows, tx.init(params), params)
      >>> update, int(state.memory.num_kept)
      (Array([ 1.5, -2. ], dtype=float32), 2)
    """
    weigh = partial(weights, clean_weight=clean_weight)
    method = Method(weigh if num_tasks is None else _recording(weigh), num_primary=1)
    return aggregate(method, num_tasks, axis_name=axis_name, nonfinite=nonfinite)


def _recording(weighting):
    def init(num_tasks):
        del num_tasks  # unused
        return GuidedMaskingState(jnp.zeros((), jnp.int32))

    def update(gram, state, *, present=None):
        del state  # only the last step is kept
        weights = weighting(gram, present=present)
        return weights, GuidedMaskingState(jnp.sum(weights[1:] > 0, dtype=jnp.int32))

    return StatefulWeighting(init, update)
