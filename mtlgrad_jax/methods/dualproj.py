"""DualProj: the average gradient, freed of its conflicts."""

from functools import partial

import jax
import optax

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.ground.presence import leave_out, only
from mtlgrad_jax.methods import _preference
from mtlgrad_jax.solvers import nnls
from mtlgrad_jax.solvers.certificates import nnls_gap
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Method, Nonfinite, PerTask, Weights

CLAIMS = Claims("mean gradient made to hurt no task", keeps="CPZF", sums_to="1", costs="program")


def weights(gram: Gram, *, preference: PerTask | None = None, present: jax.Array | None = None) -> Weights:
    """Weigh tasks so that the update is the average gradient, projected onto what hurts no task.

    The least change of the average that leaves a non-negative inner product with every gradient.

    min ½‖d − Jᵀp‖²  s.t.  ⟨gᵢ,d⟩ ≥ 0;   w = p + x,  x = argmin_{x≥0} ½xᵀGx + xᵀGp

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      preference: p, shape `(T,)`; 1/T each by default.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`; sums to Σpᵢ (one by default) when the average hurts no task, to more where it does. A
      zero gradient keeps the weight pᵢ.

    Raises:
      ValueError: If `preference` is not of shape `(T,)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> (mtl.weightings.dualproj(task_grads @ task_grads.T) @ task_grads).round(4)
      Array([0.5556, 1.1111, 1.1111], dtype=float32)

    References:
      Lopez-Paz & Ranzato (GEM), arXiv 1706.08840, (11); Quinton & Rey, arXiv 2406.16232, for the name.
    """
    p, gram = _preference.resolve(preference, gram, present), leave_out(gram, present)
    return only(p + nnls(gram, dot(gram, p)).x, present)


def dualproj_gap(
    gram: Gram, weights: Weights, *, preference: PerTask | None = None, present: jax.Array | None = None
) -> jax.Array:
    """Measure how far weights are from DualProj's, by the optimality conditions of the projection.

    Args:
      gram: G, shape `(T, T)`.
      weights: What `dualproj` returned, shape `(T,)`.
      preference: As in `dualproj`.
      present: As in `dualproj`.

    Returns:
      A non-negative scalar, see `solvers.certificates.nnls_gap`.

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.methods.dualproj import dualproj_gap
      >>> float(dualproj_gap(jnp.eye(2), jnp.array([0.5, 0.5])))
      0.0
    """
    p, gram = _preference.resolve(preference, gram, present), leave_out(gram, present)
    return nnls_gap(gram, dot(gram, p), weights - p)


def dualproj(
    num_tasks: int | None = None,
    *,
    preference: PerTask | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the mean of the task gradients, made to hurt no task to first order.

    That is said of the update that it hands on; `guard` says it of the step that an optimiser makes of it.

    Args:
      num_tasks: T, see `aggregate`.
      preference: p, shape `(T,)`; 1/T each by default.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients. `gap` is that of the projection.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.dualproj(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(
        Method(partial(weights, preference=preference), partial(dualproj_gap, preference=preference)),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
    )
