"""Any weighting on the logarithms of the losses."""

import jax.numpy as jnp

from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two
from mtlgrad_jax.typing import StatefulWeighting, Weighting, as_stateful


def on_log_losses(weighting: Weighting | StatefulWeighting) -> Weighting | StatefulWeighting:
    """Apply any weighting to the logarithms of the losses, and to their gradients.

    Multiplying a loss by a constant then changes nothing but what the weighting makes of the losses themselves, and a
    task's pull is relative to its loss.

    w = α/L,   α = weighting(Gᵢⱼ/(LᵢLⱼ), losses = log L)

    Args:
      weighting: Any weighting; one that names `losses` is given their logarithms.

    Returns:
      A weighting of the same kind that needs `losses`, shape `(T,)`, positive. Its weights are in units of one over a
      loss: for losses of one they sum to what those of `weighting` do. A loss that is not positive and finite has no
      logarithm: its task counts as one with a zero gradient and a logarithm of zero, and gets weight zero.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.on_log_losses(mtl.weightings.mgda)(jnp.eye(2), losses=jnp.array([1.0, 2.0]))
      Array([0.2, 0.4], dtype=float32)

    References:
      Lin et al. (DB-MTL), arXiv 2308.12029, table 5: it helps PCGrad, CAGrad, Nash-MTL, Aligned-MTL, IMTL-G and
      GradVac; Liu et al. (FAMO), arXiv 2306.03792.
    """
    inner = as_stateful(weighting)

    def update(gram, state, *, losses, log2_scale=0, **extras):
        if jnp.shape(losses) != gram.shape[:1]:
            raise ValueError(f"expected losses of shape {gram.shape[:1]}, one per task, got {jnp.shape(losses)}.")
        losses = jnp.asarray(losses, gram.dtype)
        usable = (losses >= jnp.finfo(gram.dtype).tiny) & (losses < jnp.inf)
        least = jnp.min(jnp.where(usable, losses, jnp.finfo(gram.dtype).max))
        unit = exponent_of(least)  # L = 2^unit · relative, at least one
        relative = scale_by_power_of_two(jnp.where(usable, losses, least), -unit)
        inverse = jnp.where(usable, 1 / relative, 0)
        scaled = gram * inverse[:, None] * inverse[None, :]
        extras = extras | {"losses": jnp.log(jnp.where(usable, losses, 1)), "log2_scale": log2_scale - unit}
        weights, state = inner.update(scaled, state, **extras)
        return scale_by_power_of_two(weights * inverse, -unit), state

    if isinstance(weighting, StatefulWeighting):
        return StatefulWeighting(inner.init, update, inner.needs_num_tasks)

    def weigh(gram, *, losses, **extras):
        return update(gram, inner.init(gram.shape[0]), losses=losses, **extras)[0]

    return weigh
