"""IMTL-L: learn a scale for every loss that brings all of them to one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.typing import StatefulWeighting
from mtlgrad_jax.weightings._losses import check_losses


class ImtlLState(NamedTuple):
    """What `imtl_l` remembers."""

    log_scales: jax.Array  # (T,)


def imtl_l(*, learning_rate: float = 0.025) -> StatefulWeighting:
    """Weigh tasks by a learned scale at which every loss is one.

    The weighting does its own gradient descent on the scales, one step per call. No task is favoured in the
    end: the minimum in s is exp(sᵢ) = 1/Lᵢ, where this is `si`.

    min_s Σ exp(sᵢ)Lᵢ − sᵢ,   wᵢ = exp(sᵢ)

    Args:
      learning_rate: Of the descent on s, which starts at zero.

    Returns:
      A `typing.StatefulWeighting` that needs `losses`. The weights sum to T at first, whether tasks agree or
      not, and move towards 1/Lᵢ. Losses of zero or less push s up as a zero loss does, a loss that is not
      finite leaves it; s stays within ± half the range of the exponential.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.imtl_l(learning_rate=1.0)
      >>> losses = jnp.array([1.0, 3.0])
      >>> weights, state = weighting.update(jnp.eye(2), weighting.init(2), losses=losses)
      >>> weights, state.log_scales
      (Array([1., 1.], dtype=float32), Array([ 0., -2.], dtype=float32))

    References:
      Liu et al., "Towards Impartial Multi-task Learning" (ICLR 2021), section 3.2.
    """

    def init(num_tasks):
        return ImtlLState(jnp.zeros(num_tasks))

    def update(gram, state, *, losses=None):
        losses = check_losses(losses, gram, "imtl_l")
        log_scales = state.log_scales.astype(gram.dtype)
        scales = jnp.exp(log_scales)
        slope = scales * jnp.where(losses > 0, losses, 0) - 1
        change = jnp.asarray(learning_rate, gram.dtype) * jnp.where(jnp.isfinite(losses), slope, 0)
        limit = jnp.log(jnp.finfo(gram.dtype).max) / 2
        moved = jnp.clip(log_scales - change, -limit, limit).astype(state.log_scales.dtype)
        return scales, ImtlLState(moved)

    return StatefulWeighting(init, update)
