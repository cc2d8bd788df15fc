"""Uncertainty weighting: every task's noise level is learned beside the network."""

import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.presence import only
from mtlgrad_jax.methods._learned import Optimizer, from_losses, half_of_the_exponent, learner
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting

CLAIMS = Claims("learned inverse variances", keeps="PLZF", needs="LS", sums_to="T/2", costs="–")
DEFAULT = optax.adam(0.025)


def weighting(*, optimizer: Optimizer | None = None) -> StatefulWeighting:
    """Weigh tasks by a learned inverse variance of their noise.

    The log-variances live in the Optax state and not among the parameters. Somebody who wants them there, under the
    same optimiser as the network, needs no weighting: add `s` to the parameters and minimise the sum below.

    min_s Σ ½exp(−sᵢ)Lᵢ + ½sᵢ,   wᵢ = ½exp(−sᵢ)

    Args:
      optimizer: Any Optax transformation, which descends s, one step per call, from zero; Adam at .025 by default. It
        sees one task at a time.

    Returns:
      A `typing.StatefulWeighting` that needs `losses`; `values` in its state are s. The weights sum to T/2 at first,
      whether tasks agree or not, and move towards 1/(2Lᵢ), where s = log L. Losses of zero or less push s down as a
      zero loss does; where a loss is not finite, or its task absent, s and what the optimiser knows of it rest; s stays
      within ± half the range of the exponential.

    Raises:
      ValueError: If `optimizer` is not a transformation.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.uncertainty(optimizer=optax.sgd(1.0))
      >>> losses = jnp.array([1.0, 3.0])
      >>> weights, state = weighting.update(jnp.eye(2), weighting.init(2), losses=losses)
      >>> weights, state.values
      (Array([0.5, 0.5], dtype=float32), Array([0., 1.], dtype=float32))

    References:
      Kendall et al., arXiv 1705.07115 (7), the regression form for every task; s = log σ². Published code trains s with
      the network's optimiser (LibMTL, from s = −.5) or with Adam at .025 (that of Nash-MTL and of FAMO).
    """
    return from_losses(
        "uncertainty",
        weigh=lambda s, present: only(jnp.exp(-s) / 2, present),
        slope=lambda s, losses: (1 - jnp.exp(-s) * losses) / 2,
        limit=half_of_the_exponent,
        learner=learner(optimizer, DEFAULT, "uncertainty"),
    )


def uncertainty(
    num_tasks: int | None = None,
    *,
    optimizer: Optimizer | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients weighted by a learned inverse variance.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      optimizer: Any Optax transformation, which learns the log-variances; Adam at .025 by default. Its state lives in
        the state of the method.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.uncertainty(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([0.5, 0.5], dtype=float32)
    """
    return aggregate(weighting(optimizer=optimizer), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
