"""Weights averaged over steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import check_memory, dot
from mtlgrad_jax.ground.presence import everyone, only, stand_in
from mtlgrad_jax.typing import PerTask, PyTree, StatefulWeighting, Weighting, as_stateful


class SmoothedState(NamedTuple):
    """What `smoothed` remembers."""

    weights: jax.Array  # (T,)
    started: jax.Array  # (T,) bool, whether a task has been weighed
    inner: PyTree  # of the wrapped weighting


def smoothed(
    weighting: Weighting | StatefulWeighting, *, alpha: float = 0.9, start: PerTask | None = None
) -> StatefulWeighting:
    """Average the weights of any weighting over the steps.

    On mini-batches the weights and the gradients that they multiply depend on the same noise, which biases the
    update; an average depends on it less.

    λ̂(t) = α λ̂(t−1) + (1−α) λ(t),   λ̂(1) = λ(1) or, with a start, λ̂(0) = start

    Args:
      weighting: Any weighting.
      alpha: α, from 0 for no average to 1 for the weights of the first step for ever.
      start: λ̂(0), a number or shape `(T,)`; by default the average begins with the first weights. The weights of
        physics-informed networks begin at one, so that the first ones, which may be extreme, count by 1−α.

    Returns:
      A `typing.StatefulWeighting`. The weights sum to what those of `weighting` do. They keep its promises in
      the long run, not at every step. The average of an absent task rests, and the others share its weight.

    Raises:
      ValueError: If `alpha` is not between 0 and 1.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.smoothed(mtl.weightings.mgda, alpha=0.5)
      >>> weights, state = weighting.update(jnp.eye(2), weighting.init(2))
      >>> weighting.update(jnp.diag(jnp.array([1.0, 3.0])), state)[0]
      Array([0.625, 0.375], dtype=float32)

    References:
      Zhou et al. (CR-MOGM), NeurIPS 2022; Wang et al., arXiv 2001.04536 and their jaxpi, for a start at one.
    """
    if isinstance(alpha, int | float) and not 0 <= alpha <= 1:
        raise ValueError(f"expected alpha between 0 and 1, got {alpha}.")
    inner = as_stateful(weighting)

    def init(num_tasks):
        weights = jnp.zeros(num_tasks) if start is None else jnp.zeros(num_tasks) + jnp.asarray(start, float)
        return SmoothedState(weights, jnp.full(num_tasks, start is not None), inner.init(num_tasks))

    def update(gram, state, *, present=None, **extras):
        check_memory(state.weights, gram)
        extras = extras if present is None else extras | {"present": present}
        fresh, memory = inner.update(gram, state.inner, **extras)
        before, left = state.weights.astype(fresh.dtype), jnp.ones((), fresh.dtype)
        if present is not None:
            fresh = dot(fresh, stand_in(present, None, fresh.dtype))
            left = _share(before, present)
        present = everyone(present, fresh)
        kept = jnp.where(state.started & (left > 0), jnp.asarray(alpha, fresh.dtype), 0)
        weights = only(kept * before / jnp.where(left > 0, left, 1) + (1 - kept) * fresh, present)
        remembered = jnp.where(present, (weights * left).astype(state.weights.dtype), state.weights)
        return weights, SmoothedState(remembered, state.started | present, memory)

    return StatefulWeighting(init, update, reads_gram=inner.reads_gram)


def _share(weights, present):
    """Return what the tasks present have of all weight, one if there is none yet."""
    total = jnp.sum(jnp.abs(weights))
    return jnp.where(total > 0, jnp.sum(jnp.abs(only(weights, present))) / jnp.where(total > 0, total, 1), 1)
