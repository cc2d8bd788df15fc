"""IMTL-L: learn a scale for every loss that brings all of them to one."""

import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.presence import only
from mtlgrad_jax.methods._learned import Optimizer, from_losses, half_of_the_exponent, learner
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting

CLAIMS = Claims("learned scales that make losses one", keeps="PLZF", needs="LS", sums_to="T", costs="–")
DEFAULT = optax.adam(0.025)


def weighting(*, optimizer: Optimizer | None = None) -> StatefulWeighting:
    """Weigh tasks by a learned scale at which every loss is one.

    No task is favoured in the end: the minimum in s is exp(sᵢ) = 1/Lᵢ, where this is `si`.

    min_s Σ exp(sᵢ)Lᵢ − sᵢ,   wᵢ = exp(sᵢ)

    Args:
      optimizer: Any Optax transformation, which descends s, one step per call, from zero; Adam at .025 by default. It
        sees one task at a time.

    Returns:
      A `typing.StatefulWeighting` that needs `losses`; `values` in its state are s. The weights sum to T at first,
      whether tasks agree or not, and move towards 1/Lᵢ. Losses of zero or less push s up as a zero loss does; where a
      loss is not finite, or its task absent, s and what the optimiser knows of it rest; s stays within ± half the range
      of the exponential.

    Raises:
      ValueError: If `optimizer` is not a transformation.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.imtl_l(optimizer=optax.sgd(1.0))
      >>> losses = jnp.array([1.0, 3.0])
      >>> weights, state = weighting.update(jnp.eye(2), weighting.init(2), losses=losses)
      >>> weights, state.values
      (Array([1., 1.], dtype=float32), Array([ 0., -2.], dtype=float32))

    References:
      Liu et al., "Towards Impartial Multi-task Learning" (ICLR 2021), section 3.2. LibMTL trains s with the network's
      optimiser.
    """
    return from_losses(
        "imtl_l",
        weigh=lambda s, present: only(jnp.exp(s), present),
        slope=lambda s, losses: jnp.exp(s) * losses - 1,
        limit=half_of_the_exponent,
        learner=learner(optimizer, DEFAULT, "imtl_l"),
    )


def imtl_l(
    num_tasks: int | None = None,
    *,
    optimizer: Optimizer | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients weighted by learned scales that bring every loss to one.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      optimizer: Any Optax transformation, which learns the scales; Adam at .025 by default. Its state lives in the
        state of the method.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.imtl_l(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([1., 1.], dtype=float32)
    """
    return aggregate(weighting(optimizer=optimizer), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
