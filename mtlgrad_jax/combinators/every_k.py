"""Weights that are recomputed every k steps only."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import check_memory
from mtlgrad_jax.typing import PyTree, StatefulWeighting, Weighting, as_stateful


class EveryKState(NamedTuple):
    """What `every_k` remembers."""

    count: jax.Array  # () int32, steps since the weights were computed
    weights: jax.Array  # (T,)
    inner: PyTree  # of the wrapped weighting


def every_k(weighting: Weighting | StatefulWeighting, k: int) -> StatefulWeighting:
    """Compute the weights every k steps and reuse them in between.

    For a method whose weights are expensive; its memory moves only when it is called.

    w(t) = weighting(G(t)) if t is a multiple of k, else w(t−1)

    Args:
      weighting: Any weighting.
      k: At least one.

    Returns:
      A `typing.StatefulWeighting`. The weights sum to what those of `weighting` do. In between they promise
      nothing about the gradients of that step.

    Raises:
      ValueError: If k is not positive.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.every_k(mtl.weightings.mgda, 2)
      >>> state = weighting.init(2)
      >>> for longer in (1.0, 3.0, 3.0):
      ...     weights, state = weighting.update(jnp.diag(jnp.array([1.0, longer])), state)
      ...     print(weights)
      [0.5 0.5]
      [0.5 0.5]
      [0.75 0.25]

    References:
      Navon et al., arXiv 2202.01017, section 5, for Nash-MTL.
    """
    if k < 1:
        raise ValueError(f"expected k of at least one step, got {k}.")
    inner = as_stateful(weighting)

    def init(num_tasks):
        return EveryKState(jnp.zeros((), jnp.int32), jnp.zeros(num_tasks), inner.init(num_tasks))

    def update(gram, state, **extras):
        check_memory(state.weights, gram)

        def compute(state):
            weights, memory = inner.update(gram, state.inner, **extras)
            return EveryKState(state.count, weights.astype(state.weights.dtype), memory)

        state = lax.cond(state.count == 0, compute, lambda state: state, state)
        count = jnp.where(state.count + 1 >= k, 0, state.count + 1)
        return state.weights.astype(gram.dtype), state._replace(count=count)

    return StatefulWeighting(init, update)
