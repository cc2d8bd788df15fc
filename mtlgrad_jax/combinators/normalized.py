"""Any weighting on gradients of unit length."""

import jax.numpy as jnp

from mtlgrad_jax.ground.grams import reciprocal, row_norms
from mtlgrad_jax.ground.presence import fill_hull, leave_out
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.typing import StatefulWeighting, Weighting, as_stateful


def normalized(weighting: Weighting | StatefulWeighting) -> Weighting | StatefulWeighting:
    """Apply any weighting to the gradients divided by their lengths.

    The direction then no longer depends on the scale of any loss. A promise about ⟨gᵢ,u⟩ ≥ 0 survives, since
    the sign does.

    w = α/‖g‖,   α = weighting(Ĝ),   Ĝᵢⱼ = Gᵢⱼ/(‖gᵢ‖‖gⱼ‖)

    Args:
      weighting: Any weighting.

    Returns:
      A weighting of the same kind. Its weights are in units of one over a length: for gradients of length one
      they sum to what those of `weighting` do. A zero gradient stays one, and its weight is α.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.normalized(mtl.weightings.mgda)(jnp.diag(jnp.array([1.0, 16.0])))
      Array([0.5  , 0.125], dtype=float32)

    References:
      Sener & Koltun, arXiv 1810.04650, whose code offers it for MGDA.
    """
    inner = as_stateful(weighting)

    def update(gram, state, *, log2_scale=0, present=None, **extras):
        gram = leave_out(gram, present)
        lengths = row_norms(gram)
        inverse = reciprocal(lengths)
        unit_gram, move = fill_hull(gram * inverse[:, None] * inverse[None, :], present)
        extras = extras if present is None else extras | {"present": present}
        weights, state = inner.update(unit_gram, state, **extras)
        weights = move(weights)
        scaled = scale_by_power_of_two(weights * inverse, -jnp.asarray(log2_scale))
        return jnp.where(lengths > 0, scaled, weights), state

    if isinstance(weighting, StatefulWeighting):
        return StatefulWeighting(inner.init, update, inner.needs_num_tasks)
    return lambda gram, **extras: update(gram, inner.init(gram.shape[0]), **extras)[0]
