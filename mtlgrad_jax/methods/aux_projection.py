"""Auxiliary gradients without their component against the primary."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram, reciprocal
from mtlgrad_jax.ground.presence import leave_out, only
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Method, Nonfinite, Weights

CLAIMS = Claims("auxiliaries without opposing parts", keeps="ZF", sums_to="1 + λ(T − 1)", costs="closed form")


def weights(gram: Gram, *, strength: jax.Array | float = 1.0, present: jax.Array | None = None) -> Weights:
    """Add each auxiliary gradient after removing what opposes the primary gradient.

    The primary descends at least as fast as alone. It protects the primary from the auxiliaries; the reverse
    of `primary_aux`, which protects the auxiliaries from the primary.

    u = g₀ + λ Σⱼ (gⱼ − min(⟨gⱼ,g₀⟩, 0)/‖g₀‖²·g₀)

    Args:
      gram: G = JJᵀ, shape `(T, T)`, the primary first.
      strength: λ.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`; sums to 1 + λ(T − 1) when all tasks agree. With a zero primary gradient the auxiliaries
      are followed as they are.

    Raises:
      ValueError: If `gram` is not square.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[2.0, 0.0], [-1.0, 1.0]])
      >>> mtl.weightings.aux_projection(task_grads @ task_grads.T) @ task_grads
      Array([2., 1.], dtype=float32)

    References:
      Du et al., arXiv 1812.02224, and the projection of Yu et al. (PCGrad), arXiv 2001.06782, applied to the
      auxiliaries only. With mini-batch noise it acts much like plain addition; `bloop` projects on an
      average of g₀ instead.
    """
    check_gram(gram)
    gram = leave_out(gram, present)
    scale = jnp.asarray(strength, gram.dtype)
    auxiliary = jnp.arange(gram.shape[0]) > 0
    removed = jnp.where(auxiliary, jnp.maximum(-gram[0], 0) * reciprocal(gram[0, 0]), 0)
    return only(jnp.where(auxiliary, scale, 1 + scale * jnp.sum(removed)), present)


def aux_projection(
    num_tasks: int | None = None,
    *,
    strength: jax.Array | float = 1.0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the primary gradient and the auxiliaries without what opposes it.

    Args:
      num_tasks: T, see `aggregate`.
      strength: λ.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.aux_projection(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(
        Method(partial(weights, strength=strength), num_primary=1), num_tasks, axis_name=axis_name, nonfinite=nonfinite
    )
