"""Auxiliary tasks that may speak only while they agree with the primary."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram, normalize_rows
from mtlgrad_jax.ground.presence import leave_out, only
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Method, Nonfinite, Weights

CLAIMS = Claims(
    "auxiliaries that agree with primary",
    keeps="F",
    sums_to="1 + λ(T − 1)",
    costs="closed form",
    variants={"unweighted": {"options": lambda num_tasks: {"gate": "unweighted"}}},
)


Gate = Literal["weighted", "unweighted"]
GATES = get_args(Gate)


def weights(
    gram: Gram,
    *,
    gate: Gate = "weighted",
    strength: jax.Array | float = 1.0,
    present: jax.Array | None = None,
) -> Weights:
    """Add the auxiliary gradients whose cosine with the primary gradient is positive.

    The cheapest protection of a primary task: auxiliaries that conflict with it are left out.

    u = g₀ + λ Σⱼ max(cos(g₀,gⱼ), 0)·gⱼ   or   g₀ + λ Σⱼ 1[cos(g₀,gⱼ) > 0]·gⱼ

    Args:
      gram: G = JJᵀ, shape `(T, T)`, the primary first.
      gate: `"weighted"` by the cosine, or `"unweighted"`.
      strength: λ.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`; sums to 1 + λ(T − 1) when all tasks agree. A zero gradient has no angle and gets weight
      zero; the primary's weight is always one. The gates are per auxiliary: several of them can still
      conflict with one another.

    Raises:
      ValueError: If `gate` is unknown.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[2.0, 0.0], [3.0, 4.0], [-1.0, 1.0]])
      >>> mtl.weightings.cosine_gate(task_grads @ task_grads.T)
      Array([1. , 0.6, 0. ], dtype=float32)

    References:
      Du et al., "Adapting auxiliary losses using gradient similarity", arXiv 1812.02224.
    """
    check_gram(gram)
    if gate not in GATES:
        raise ValueError(f"expected gate to be one of {', '.join(map(repr, GATES))}, got {gate!r}.")
    correlation, _ = normalize_rows(leave_out(gram, present))
    opening = jnp.maximum(correlation[0], 0)
    if gate == "unweighted":
        opening = (opening > 0).astype(gram.dtype)
    return only((jnp.asarray(strength, gram.dtype) * opening).at[0].set(1), present)


def cosine_gate(
    num_tasks: int | None = None,
    *,
    gate: Gate = "weighted",
    strength: jax.Array | float = 1.0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the primary gradient and the auxiliaries that agree with it.

    Args:
      num_tasks: T, see `aggregate`.
      gate: `"weighted"` by the cosine, or `"unweighted"`.
      strength: λ.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.cosine_gate(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(
        Method(partial(weights, gate=gate, strength=strength), num_primary=1),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
    )
