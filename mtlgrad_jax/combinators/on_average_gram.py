"""Any weighting on the Gram matrix averaged over steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import check_memory
from mtlgrad_jax.ground.presence import everyone, fill_hull, leave_out
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.typing import Gram, PyTree, StatefulWeighting, Weighting, as_stateful


class AverageGramState(NamedTuple):
    """What `on_average_gram` remembers."""

    gram: Gram  # (T, T), the average divided by 4^log2_scale
    log2_scale: jax.Array  # () int32
    started: jax.Array  # (T,) bool, whether a task has been seen
    inner: PyTree  # of the wrapped weighting


def on_average_gram(weighting: Weighting | StatefulWeighting, *, alpha: float = 0.9) -> StatefulWeighting:
    """Apply any weighting to the Gram matrix averaged over the steps.

    Lengths and angles of mini-batch gradients are noisy; `smoothed` averages what a weighting makes of the noise, this
    averages what it is given. Inside `every_k` the average is over the times that the weights are computed.

    w = weighting(Ĝ(t)),   Ĝ(t) = α Ĝ(t−1) + (1−α) G(t),   Ĝ(1) = G(1)

    Args:
      weighting: Any weighting.
      alpha: α, from 0 for no average to 1 for the Gram matrix of the first step for ever.

    Returns:
      A `typing.StatefulWeighting`. Its weights sum to what those of `weighting` do. They keep its promises for the
      average, not at every step. Noise adds the covariance of the gradients to Ĝ. What is known of an absent task
      rests, and its products with the others fade half as fast as theirs.

    Raises:
      ValueError: If `alpha` is not between 0 and 1.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.on_average_gram(mtl.weightings.mgda, alpha=0.5)
      >>> _, state = weighting.update(jnp.diag(jnp.array([1.0, 2.0])), weighting.init(2))
      >>> weighting.update(jnp.diag(jnp.array([1.0, 4.0])), state)[0]
      Array([0.75, 0.25], dtype=float32)

    References:
      Zhou et al. (CR-MOGM), NeurIPS 2022, for averages of the weights, and why.
    """
    if isinstance(alpha, int | float) and not 0 <= alpha <= 1:
        raise ValueError(f"expected alpha between 0 and 1, got {alpha}.")
    inner = as_stateful(weighting)

    def init(num_tasks):
        gram, zero = jnp.zeros((num_tasks, num_tasks)), jnp.zeros((), jnp.int32)
        return AverageGramState(gram, zero, jnp.zeros(num_tasks, bool), inner.init(num_tasks))

    def update(gram, state, *, log2_scale=0, present=None, **extras):
        check_memory(state.started, gram)
        extras = extras if present is None else extras | {"present": present}
        here = everyone(present, gram[0])
        kept = jnp.where(state.started, jnp.asarray(alpha, gram.dtype), 0)
        before = _outer(jnp.where(here, jnp.sqrt(kept), 1)) * state.gram.astype(gram.dtype)
        fresh = _outer(jnp.where(here, jnp.sqrt(1 - kept), 0)) * leave_out(gram, present)
        average, unit = _add(before, state.log2_scale, fresh, jnp.asarray(log2_scale, jnp.int32))
        hull, move = fill_hull(average, present)
        weights, memory = inner.update(hull, state.inner, log2_scale=unit, **extras)
        return move(weights), AverageGramState(average.astype(state.gram.dtype), unit, state.started | here, memory)

    return StatefulWeighting(init, update)


def _outer(shares):
    """Return shareᵢ·shareⱼ: with one share a task, what is averaged stays a Gram matrix."""
    return shares[:, None] * shares[None, :]


def _add(old, old_unit, new, unit):
    """Add two Gram matrices in units of their own, in the unit of the new one where the sum has room in it."""
    common = jnp.maximum(old_unit, unit)
    total = scale_by_power_of_two(old, 2 * (old_unit - common)) + scale_by_power_of_two(new, 2 * (unit - common))
    lowered = scale_by_power_of_two(total, 2 * (common - unit))
    fits = jnp.max(jnp.diagonal(lowered)) < jnp.finfo(new.dtype).max / 2**8
    return jnp.where(fits, lowered, total), jnp.where(fits, unit, common)
