"""UPGrad: every gradient is freed of its conflicts, then they are added."""

from functools import partial

import jax
import optax
from jax import lax

from mtlgrad_jax.ground.grams import dot
from mtlgrad_jax.ground.presence import leave_out, only
from mtlgrad_jax.methods import _preference
from mtlgrad_jax.solvers import nnls
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, PerTask, Weights

CLAIMS = Claims("mean of gradients freed of conflicts", keeps="CPLZF", sums_to="1", costs="T programs")


CACHED = 24  # programs; from here on a CPU solves them faster one by one, each in as many steps as it needs


def weights(gram: Gram, *, preference: PerTask | None = None, present: jax.Array | None = None) -> Weights:
    """Weigh tasks so that each gradient, projected onto the directions that hurt no task, counts.

    The update has a non-negative inner product with every gradient and is linear in the length of each.

    u = Σ pᵢ π(gᵢ),  π(g) = argmin_d ‖d − g‖²  s.t.  ⟨gⱼ,d⟩ ≥ 0;   π(gᵢ) = gᵢ + Jᵀxᵢ,  xᵢ = argmin_{x≥0} ½xᵀGx + xᵀGeᵢ

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      preference: p, shape `(T,)`, non-negative; 1/T each by default.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`; sums to Σpᵢ (one by default) when no two tasks conflict, to more where they do. A zero
      gradient keeps the weight pᵢ. The T programs are exact and without regularisation, which in published
      code makes the answer the mean for short gradients and lets small tasks be hurt.

    Raises:
      ValueError: If `preference` is not of shape `(T,)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.weightings.upgrad(task_grads @ task_grads.T).round(4)
      Array([1.1111, 0.7895], dtype=float32)

    References:
      Quinton & Rey, "Jacobian descent for multi-objective optimization", arXiv 2406.16232, (4).
    """
    p = _preference.resolve(preference, gram, present)
    return only(p + dot(p, _repairs(leave_out(gram, present))), present)


def _repairs(gram):
    """Return xᵢ in row i: all programs at once, or one by one where a core's cache holds one and not all."""
    repair = lambda row: nnls(gram, row).x
    together, one_by_one = jax.vmap(repair), partial(lax.map, repair)
    if gram.shape[0] < CACHED:
        return together(gram)
    return lax.platform_dependent(gram, cpu=one_by_one, default=together)


def upgrad(
    num_tasks: int | None = None,
    *,
    preference: PerTask | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the mean of the task gradients, each freed of its conflicts, which hurts no task to first order.

    That is said of the update that it hands on; `guard` says it of the step that an optimiser makes of it.

    Args:
      num_tasks: T, see `aggregate`.
      preference: p, shape `(T,)`, non-negative; 1/T each by default.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.upgrad(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(partial(weights, preference=preference), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
