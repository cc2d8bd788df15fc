"""MGDA for every member, with a repulsion between members in loss space."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import reciprocal
from mtlgrad_jax.solvers import min_norm


def repelling_weights(
    losses: jax.Array,
    grams: jax.Array,
    *,
    strength: jax.Array | float = 1.0,
    bandwidth: jax.Array | float | None = None,
) -> jax.Array:
    """Weigh the tasks of every member so that it descends, and keeps away from the losses of the others.

    Needs neither rays nor a reference, and works for any number of tasks; where the front is known to be wide
    `hypervolume_weights` spread members more evenly.

    wₖ = αₖ + λ ∂/∂Lₖ Σⱼ h·exp(−‖Lₖ − Lⱼ‖²/h²),   αₖ = mgda(Gₖ)

    Args:
      losses: L, shape `(K, T)`.
      grams: G of every member, shape `(K, T, T)`; all zeros leave MGDA out.
      strength: λ, relative to MGDA's weights.
      bandwidth: h, in the unit of a loss; by default h² is the median of the squared distances over log(K + 1), as for
        Stein's method, taken as constant.

    Returns:
      w, shape `(K, T)`; a weight can be negative. With one member, or with all in the same place, they are MGDA's.

    Raises:
      ValueError: If shapes do not match.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> grams = jnp.stack([jnp.eye(2), jnp.eye(2)])
      >>> weights = mtl.fronts.repelling_weights(jnp.array([[1.0, 2.0], [1.5, 2.0]]), grams)
      >>> bool(weights[0, 0] > 0.5), bool(weights[1, 0] < 0.5)
      (True, True)

    References:
      Liu et al. (MOO-SVGD), NeurIPS 2021. There a member also follows the directions of the others, in the space of
      parameters, weighted by the kernel; networks have no such common space, and here each has its own direction.
    """
    num_members, num_tasks = losses.shape
    if grams.shape != (num_members, num_tasks, num_tasks):
        raise ValueError(f"expected grams of shape {(num_members, num_tasks, num_tasks)}, got {grams.shape}.")
    differences = losses[:, None, :] - losses[None, :, :]
    squares = jnp.sum(differences**2, axis=-1)
    if bandwidth is None:
        others = squares[jnp.triu_indices(num_members, 1)] if num_members > 1 else squares[0]
        bandwidth = jnp.sqrt(jnp.median(others) / jnp.log(jnp.asarray(num_members + 1, losses.dtype)))
    inverse = reciprocal(jnp.asarray(bandwidth, losses.dtype))
    kernel = jnp.exp(-squares * inverse * inverse)
    push = -2 * inverse * jnp.sum(kernel[:, :, None] * differences, axis=1)
    return jax.vmap(lambda gram: min_norm(gram).x)(grams) + jnp.asarray(strength, losses.dtype) * push
