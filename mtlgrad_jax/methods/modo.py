"""MoDo: one projected gradient step on the weights per call, from two independent batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_memory, dot
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.methods._extras import check_cross_gram
from mtlgrad_jax.methods._simplex import descend, restrict, resume
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting

CLAIMS = Claims(
    "MGDA without the bias of one batch", keeps="PF", needs="SX", sums_to="1", costs="second batch", degree=None
)


class ModoState(NamedTuple):
    """What `modo` remembers."""

    weights: jax.Array  # (T,), on the simplex


def weighting(*, gamma: float = 0.1, rho: float = 0.1) -> StatefulWeighting:
    """Weigh tasks by following MGDA's program one unbiased step per call.

    The gradient of ‖Jᵀw‖² contains a product of two expectations; two independent batches estimate it without
    bias, which one batch cannot.

    w ← Π_Δ(w − γ(J₁J₂ᵀ + ρI)w)

    Args:
      gamma: γ, in units of one over a squared gradient length: its effect depends on the scale of the losses.
      rho: ρ, which draws the weights together.

    Returns:
      A `typing.StatefulWeighting` that needs `cross_gram`, J₁J₂ᵀ. The weights sum to one, whether tasks agree
      or not, and start equal. If the cross Gram matrix is not finite they stay as they are.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.modo(rho=0.0)
      >>> gram = jnp.diag(jnp.array([1.0, 2.0]))
      >>> weighting.update(gram, weighting.init(2), cross_gram=gram)[0]
      Array([0.525, 0.475], dtype=float32)

    References:
      Chen et al., arXiv 2305.20057, (2.9). Their code has these defaults (and ρ = 0 on MNIST, where it makes the update
      of the sum of both batches), LibMTL's γ = .001.
    """

    def init(num_tasks):
        return ModoState(jnp.ones(num_tasks) / num_tasks)

    def update(gram, state, *, cross_gram=None, log2_scale=0, present=None):
        check_memory(state.weights, gram)
        cross_gram = check_cross_gram(cross_gram, gram, "modo", present)
        weights, total = restrict(state.weights.astype(gram.dtype), present)
        limit = jnp.finfo(gram.dtype).max / 4
        slope = scale_by_power_of_two(dot(cross_gram, weights), 2 * jnp.asarray(log2_scale))
        slope = jnp.clip(slope, -limit, limit) + jnp.asarray(rho, gram.dtype) * weights
        weights = descend(weights, slope, jnp.asarray(gamma, gram.dtype), present)
        return weights, ModoState(resume(state.weights, weights, total, present))

    return StatefulWeighting(init, update)


def modo(
    num_tasks: int | None = None,
    *,
    gamma: float = 0.1,
    rho: float = 0.1,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow a convex combination of the task gradients that approaches MGDA's without the bias of one batch.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      gamma: γ, in units of one over a squared gradient length.
      rho: ρ.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients J₁ that needs `tx.update(..., second_task_grads=J₂)`, at
      the same parameters on an independent batch; passing J₁ twice gives back the bias. With
      `third_task_grads` the update is made of those, as some implementations do. `gram` in the state is that
      of the rows of the update.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.modo(num_tasks=2), optax.sgd(0.1))
      >>> params = jnp.zeros(2)
      >>> state = tx.init(params)
      >>> first, second = jnp.diag(jnp.array([1.0, 2.0])), jnp.diag(jnp.array([1.0, 1.0]))
      >>> updates, state = tx.update(first, state, params, second_task_grads=second)
      >>> state[0].weights
      Array([0.525, 0.475], dtype=float32)
    """
    return aggregate(weighting(gamma=gamma, rho=rho), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
