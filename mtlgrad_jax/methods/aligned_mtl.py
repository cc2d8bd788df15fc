"""Aligned-MTL: the gradients made orthogonal and equally long, as gently as possible."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import dot, without_scale
from mtlgrad_jax.ground.presence import leave_out, only
from mtlgrad_jax.methods import _preference, _spectral
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, PerTask, Weights

CLAIMS = Claims(
    "nearest orthogonal gradients",
    keeps="pF",
    sums_to="1",
    costs="T×T eigen",
    variants={
        "median": {"options": lambda num_tasks: {"scale": "median"}},
        "rmse": {"options": lambda num_tasks: {"scale": "rmse"}},
    },
)


Scale = Literal["min", "median", "rmse"]
SCALES = get_args(Scale)


def weights(
    gram: Gram, *, preference: PerTask | None = None, scale: Scale = "min", present: jax.Array | None = None
) -> Weights:
    """Weigh tasks by the nearest gradients that are orthogonal and of one length.

    All principal components of J are brought to the size of one of them, which removes both conflict and
    dominance from the linear system (its condition number becomes one).

    w = √λ_R·VΛ^(−½)Vᵀp,   G = VΛVᵀ,  R the rank of G

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      preference: p, shape `(T,)`; 1/T each by default.
      scale: λ_R is the smallest eigenvalue that is not zero (`"min"`, the paper), the median of these (the
        lower of two), or their mean (`"rmse"`, the official code's other option).
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`; sums to Σpᵢ (one by default) when all tasks agree. Eigenvalues below T·ε times the
      largest, with ε that of the dtype of G, count as zero; in float32 that is where lengths spread over more
      than three decades. Short of that the error grows with the square of the spread: relabelling eight tasks
      moves w by 5e-6 over one decade and by up to 5e-4 over two. When all gradients are zero, w = p.

    Raises:
      ValueError: If `scale` is unknown or `preference` is not of shape `(T,)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.weightings.aligned_mtl(task_grads @ task_grads.T).tolist()
      [0.5591, 0.4083]

    References:
      Senushkin et al., "Independent component alignment for multi-task learning", arXiv 2305.19000, algorithm 1.
    """
    if scale not in SCALES:
        raise ValueError(f"expected scale to be one of {', '.join(map(repr, SCALES))}, got {scale!r}.")
    p = _preference.resolve(preference, gram, present)
    values, vectors, kept = _spectral.decompose(without_scale(leave_out(gram, present)))
    ratio = jnp.where(kept, jnp.sqrt(_chosen(values, kept, scale) / values), 0)
    return only(jnp.where(jnp.any(kept), dot(vectors, ratio * dot(vectors.T, p)), p), present)


def _chosen(values, kept, scale):
    """Return λ_R from the eigenvalues that are not zero, which are the last ones."""
    num_tasks = values.shape[0]
    rank = jnp.sum(kept, dtype=jnp.int32)
    if scale == "rmse":
        return jnp.sum(jnp.where(kept, values, 0)) / jnp.maximum(rank, 1).astype(values.dtype)
    place = num_tasks - rank + ((rank - 1) // 2 if scale == "median" else 0)
    return values[jnp.clip(place, 0, num_tasks - 1)]


def aligned_mtl(
    num_tasks: int | None = None,
    *,
    preference: PerTask | None = None,
    scale: Scale = "min",
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the sum of the nearest gradients that are orthogonal and of one length.

    Args:
      num_tasks: T, see `aggregate`.
      preference: p, shape `(T,)`; 1/T each by default.
      scale: λ_R is the smallest eigenvalue that is not zero (`"min"`, the paper), the median of these (the
        lower of two), or their mean (`"rmse"`, the official code's other option).
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.aligned_mtl(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(
        partial(weights, preference=preference, scale=scale), num_tasks, axis_name=axis_name, nonfinite=nonfinite
    )
