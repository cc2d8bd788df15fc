"""The dynamic barrier: lower the auxiliary loss while the primary keeps descending."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram, reciprocal
from mtlgrad_jax.ground.presence import leave_out, only
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Method, Nonfinite, Weights

CLAIMS = Claims("auxiliaries at the primary's rate", keeps="F", sums_to="max(1, λ(T − 1))", costs="closed form")


def weights(gram: Gram, *, strength: jax.Array | float = 1.0, present: jax.Array | None = None) -> Weights:
    """Follow the auxiliary gradient as closely as the primary's own rate of descent allows.

    The roles of a bilevel problem: the auxiliary is minimised among the minimisers of the primary.

    min ‖u − λh‖²  s.t.  ⟨g₀,u⟩ ≥ ‖g₀‖²;   u = μg₀ + λh,  μ = max(1 − λ⟨g₀,h⟩/‖g₀‖², 0),  h = Σⱼ gⱼ

    Args:
      gram: G = JJᵀ, shape `(T, T)`, the primary first; the auxiliaries act through their sum h.
      strength: λ.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w = (μ, λ, …, λ), shape `(T,)`; with a single auxiliary that agrees it sums to max(1, λ), with T − 1
      to max(1, λ(T − 1)). The primary's first-order descent is never slower than by its own
      gradient. With a zero primary gradient the auxiliaries are followed.

    Raises:
      ValueError: If `gram` is not square.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[2.0, 0.0], [-1.0, 1.0]])
      >>> mtl.weightings.dynamic_barrier(task_grads @ task_grads.T) @ task_grads
      Array([2., 1.], dtype=float32)

    References:
      Gong & Liu, "Automatic and harmless regularization with constrained and lexicographic optimization: a
      dynamic barrier approach" (NeurIPS 2021), with φ = ‖g₀‖².
    """
    check_gram(gram)
    gram = leave_out(gram, present)
    scale = jnp.asarray(strength, gram.dtype)
    auxiliary = jnp.arange(gram.shape[0]) > 0
    along = jnp.sum(jnp.where(auxiliary, gram[0], 0)) * reciprocal(gram[0, 0])
    return only(jnp.where(auxiliary, scale, jnp.maximum(1 - scale * along, 0)), present)


def dynamic_barrier(
    num_tasks: int | None = None,
    *,
    strength: jax.Array | float = 1.0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the auxiliaries as closely as the primary's own rate of descent allows.

    Args:
      num_tasks: T, see `aggregate`.
      strength: λ.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.dynamic_barrier(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(
        Method(partial(weights, strength=strength), num_primary=1), num_tasks, axis_name=axis_name, nonfinite=nonfinite
    )
