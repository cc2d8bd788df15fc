"""Weights that are computed every k steps only, and nothing that they need in between."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import check_memory
from mtlgrad_jax.ground.presence import everyone
from mtlgrad_jax.typing import Gram, PyTree, Rest, StatefulWeighting, Weighting, as_stateful


class EveryKState(NamedTuple):
    """What `every_k` remembers."""

    count: jax.Array  # () int32, steps since the weights were computed
    gram: Gram  # (T, T), that they were computed from
    log2_scale: jax.Array  # () int32
    weights: jax.Array  # (T,)
    present: jax.Array  # (T,) bool, the tasks that were weighed
    inner: PyTree  # of the wrapped weighting


def every_k(weighting: Weighting | StatefulWeighting, k: int) -> StatefulWeighting:
    """Compute the weights every k steps and reuse them in between.

    In between nothing is computed that only the weights need: no Gram matrix, and in `descent_direction` no gradient of
    a task, but one backward pass of the weighted losses. Its memory moves only when the weighting is called.

    w(t) = weighting(G(t)) if t is a multiple of k, else w(t−1)

    Args:
      weighting: Any weighting. What wraps it counts the times that the weights are computed: `smoothed(weighting)`
        averages the weights over these, `on_average_gram(weighting)` the Gram matrices.
      k: At least one.

    Returns:
      A `typing.StatefulWeighting`. The weights sum to what those of `weighting` do. In between they promise
      nothing about the gradients of that step, and the record's `gram` and `gap` are those of the last time. A
      step with the extra `refresh=True`, a boolean that may be traced, computes them anew, and so does one in which
      other tasks are `present` than before; evidence that costs
      little is a loss that rose, or a cosine of the step taken. Under `vmap` all members compute when one of them
      is due, so start them together.

    Raises:
      ValueError: If k is not positive.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.aggregate(mtl.weightings.every_k(mtl.weightings.mgda, 2), num_tasks=2)
      >>> state = tx.init(jnp.zeros(2))
      >>> for longer in (1.0, 2.0, 2.0):
      ...     _, state = tx.update(jnp.diag(jnp.array([1.0, longer])), state)
      ...     print(state.weights.round(2))
      [0.5 0.5]
      [0.5 0.5]
      [0.8 0.2]

    References:
      Navon et al., arXiv 2202.01017, section 5, for Nash-MTL.
    """
    if k < 1:
        raise ValueError(f"expected k of at least one step, got {k}.")
    inner = as_stateful(weighting)

    def init(num_tasks):
        zero = jnp.zeros((), jnp.int32)
        gram, weights = jnp.zeros((num_tasks, num_tasks)), jnp.zeros(num_tasks)
        return EveryKState(zero, gram, jnp.copy(zero), weights, jnp.ones(num_tasks, bool), inner.init(num_tasks))

    def update(gram, state, *, log2_scale=0, **extras):
        check_memory(state.weights, gram)
        weights, memory = inner.update(gram, state.inner, log2_scale=log2_scale, **extras)
        kept = gram.astype(state.gram.dtype), jnp.asarray(log2_scale, jnp.int32), weights.astype(state.weights.dtype)
        present = everyone(extras.get("present"), weights)
        return weights, EveryKState(_after(jnp.zeros_like(state.count)), *kept, present, memory)

    def rest(state, *, refresh=False, present=None):
        resting = state._replace(count=_after(state.count))
        changed = jnp.zeros((), bool) if present is None else jnp.any(present != state.present)
        return Rest((state.count == 0) | refresh | changed, state.gram, state.log2_scale, state.weights, resting)

    def _after(count):
        return jnp.where(count + 1 >= k, 0, count + 1)

    return StatefulWeighting(init, update, reads_gram=inner.reads_gram, rest=rest)
