"""FAMO: keep the relative improvement of all tasks equal, at the cost of their losses only."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_memory
from mtlgrad_jax.ground.logarithms import log_losses, softmax_where
from mtlgrad_jax.ground.presence import everyone, only
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.methods._learned import Optimizer, learner
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, PyTree, StatefulWeighting

CLAIMS = Claims("equal relative progress", keeps="PLZF", needs="LS", sums_to="1", costs="–")
DEFAULT = optax.chain(optax.add_decayed_weights(1e-3), optax.adam(0.025))


class FamoState(NamedTuple):
    """What `famo` remembers."""

    logits: jax.Array  # (T,)
    losses: jax.Array  # (T,), of the last step, before its update; zero without one
    optimizer: PyTree  # of the optimiser, leaves (T, ...)


def weighting(*, optimizer: Optimizer | None = None) -> StatefulWeighting:
    """Weigh tasks so that all losses fall at the same relative rate.

    Tasks whose logarithmic loss fell least in the last step get more weight in the next one. To know how much
    a loss fell, it is needed on the same batch after the step: pass `previous_batch_losses`, the losses at the
    current parameters on the batch of the *previous* step, with the next call.

    wᵢ ∝ zᵢ/Lᵢ,  z = softmax(ξ),   ξ descends along (diag z − zzᵀ)(log Lₜ₋₁ − log L′ₜ₋₁)

    Args:
      optimizer: Any Optax transformation, which descends ξ, one step per call, from zero; by default that of the
        authors' code, Adam at .025 on the slope with a decay of 1e-3 added to it,
        `optax.chain(optax.add_decayed_weights(1e-3), optax.adam(0.025))`. It sees one task at a time. The paper's own
        plain descent, `optax.sgd`, needs a rate of tens: logarithmic losses differ little between two steps.

    Returns:
      A `typing.StatefulWeighting` that needs `losses` and takes `previous_batch_losses`, ignored at the first
      step. Without it `losses` stands in, which is exact when every step sees all data and otherwise mistakes
      the difference between two batches for progress. The weights sum to one, whether tasks agree or not. A
      loss that is not positive has no logarithm: its task gets weight zero. Where it is not known how much a loss
      fell, since it has no logarithm or its task is absent or was in the last step, the logit and what the optimiser
      knows of it rest. Subtract a lower bound from losses that may be negative.

    Raises:
      ValueError: If `optimizer` is not a transformation.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.famo()
      >>> weights, state = weighting.update(jnp.eye(2), weighting.init(2), losses=jnp.array([1.0, 3.0]))
      >>> jnp.round(weights, 4)
      Array([0.75, 0.25], dtype=float32)

    References:
      Liu et al., arXiv 2306.03792, algorithm 1. Their code also clips the network's gradient to a length of one,
      `optax.clip_by_global_norm(1.0)` behind this, and adds 1e-8 to the losses; its decay is 1e-5, 1e-3 or 1e-2.
    """
    learns = learner(optimizer, DEFAULT, "famo")

    def init(num_tasks):
        logits = jnp.zeros(num_tasks)
        return FamoState(logits, jnp.zeros(num_tasks), learns.init(logits))

    def update(gram, state, *, losses=None, previous_batch_losses=None, present=None):
        check_memory(state.logits, gram)
        losses = check_losses(losses, gram, "famo")
        after = losses if previous_batch_losses is None else previous_batch_losses
        after = check_losses(after, gram, "famo", name="previous_batch_losses")
        present = everyone(present, losses)

        log_before, known_before = log_losses(state.losses.astype(gram.dtype))
        log_after, known_after = log_losses(after)
        known = present & known_before & known_after
        fall, shares = only(log_before - log_after, known), softmax_where(state.logits.astype(gram.dtype), known)
        slope = shares * (fall - jnp.sum(shares * fall))
        logits, memory = learns.descend(state.logits, state.optimizer, slope, known)

        log_now, usable = log_losses(losses)
        weights = softmax_where(jax.nn.log_softmax(logits.astype(gram.dtype)) - log_now, usable & present)
        return weights, FamoState(logits, only(losses, present).astype(state.losses.dtype), memory)

    return StatefulWeighting(init, update, reads_gram=False)


def famo(
    num_tasks: int | None = None,
    *,
    optimizer: Optimizer | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients so that all losses fall at the same relative rate.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      optimizer: Any Optax transformation, which learns the logits; that of the authors' code by default, Adam at .025
        with a decay of 1e-3. Its state lives in the state of the method.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)` and takes
      `previous_batch_losses`, the losses of the current parameters on the batch of the previous step.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.famo(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([0.8, 0.2], dtype=float32)
    """
    return aggregate(weighting(optimizer=optimizer), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
