"""Any weighting on gradients of unit length, or of a power of their length."""

import jax.numpy as jnp
from jax.typing import ArrayLike

from mtlgrad_jax.ground.grams import check_gram, reciprocal, row_norms
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.typing import StatefulWeighting, Weighting, as_stateful


def normalized(weighting: Weighting | StatefulWeighting, *, power: ArrayLike = 1.0) -> Weighting | StatefulWeighting:
    """Apply any weighting to the gradients divided by their lengths, or by a power of these.

    With power one the direction no longer depends on the scale of any loss. A promise about ⟨gᵢ,u⟩ ≥ 0 survives, since
    the sign does.

    w = α/‖g‖ᵖ,   α = weighting(Ĝ),   Ĝᵢⱼ = Gᵢⱼ/(‖gᵢ‖‖gⱼ‖)ᵖ

    Args:
      weighting: Any weighting.
      power: p; between 0 and 1 long gradients keep some of their say, above 1 short ones have more of it.

    Returns:
      A weighting of the same kind. Its weights are in units of length⁻ᵖ: for gradients of length one
      they sum to what those of `weighting` do. A zero gradient stays one, and its weight is α.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.normalized(mtl.weightings.mgda)(jnp.diag(jnp.array([1.0, 16.0])))
      Array([0.5  , 0.125], dtype=float32)

    References:
      Sener & Koltun, arXiv 1810.04650, whose code offers it for MGDA; Li et al. (GAPO), arXiv 2507.01915, for powers.
    """
    inner = as_stateful(weighting)

    def update(gram, state, *, log2_scale=0, **extras):
        check_gram(gram)
        lengths = row_norms(gram)
        inverse = _inverse_power(lengths, power)
        kept, rest = _split(jnp.asarray(log2_scale), 1 - jnp.asarray(power, gram.dtype))
        unit_gram = gram * (inverse * rest)[:, None] * (inverse * rest)[None, :]
        weights, state = inner.update(unit_gram, state, log2_scale=kept, **extras)
        whole, rest = _split(jnp.asarray(log2_scale), -jnp.asarray(power, gram.dtype))
        scaled = scale_by_power_of_two(weights * inverse * rest, whole)
        return jnp.where(lengths > 0, scaled, weights), state

    if isinstance(weighting, StatefulWeighting):
        return StatefulWeighting(inner.init, update, inner.needs_num_tasks)
    return lambda gram, **extras: update(gram, inner.init(check_gram(gram)), **extras)[0]


def _inverse_power(lengths, power):
    """Return ‖g‖⁻ᵖ, and 0 for a zero gradient."""
    if isinstance(power, int | float) and power == 1:
        return reciprocal(lengths)
    present = lengths > 0
    return jnp.where(present, jnp.power(jnp.where(present, lengths, 1), -jnp.asarray(power, lengths.dtype)), 0)


def _split(exponent, degree):
    """Return the whole part n of exponent·degree, and two to the power of the rest."""
    total = exponent.astype(degree.dtype) * degree
    whole = jnp.round(total)
    return whole.astype(jnp.int32), jnp.exp2(total - whole)
