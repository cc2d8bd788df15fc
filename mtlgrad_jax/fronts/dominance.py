"""Which members another one beats in every loss."""

import jax
import jax.numpy as jnp
from jax import lax


def nondominated(losses: jax.Array) -> jax.Array:
    """Tell which members no other is at least as good as in every loss and better in one.

    Args:
      losses: L, shape `(K, T)`; a member with a NaN is dominated.

    Returns:
      Booleans, shape `(K,)`. Of equal members none dominates the other.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.fronts.nondominated(jnp.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0]]))
      Array([ True,  True, False], dtype=bool)
    """
    return ~jnp.any(_dominates(losses), axis=0) & ~jnp.any(jnp.isnan(losses), axis=1)


def ranks(losses: jax.Array) -> jax.Array:
    """Number the fronts: 0 for members that nobody dominates, 1 for those that only members of rank 0 do, and so on.

    Args:
      losses: L, shape `(K, T)`.

    Returns:
      int32, shape `(K,)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.fronts.ranks(jnp.array([[1.0, 3.0], [2.0, 2.0], [2.0, 3.0], [3.0, 3.0]]))
      Array([0, 0, 1, 2], dtype=int32)

    References:
      Deb et al. (NSGA-II), IEEE Trans. Evol. Comput. 6 (2002).
    """
    above = _dominates(losses)
    none = jnp.zeros_like(losses[:, 0], jnp.int32)

    def raise_ranks(_, rank):  # to one more than the highest rank above, which is final after as many rounds
        return jnp.max(jnp.where(above, rank[:, None] + 1, 0), axis=0)

    return lax.fori_loop(0, losses.shape[0] - 1, raise_ranks, none)


def _dominates(losses):
    """Return whether row i dominates row j, shape `(K, K)`."""
    first, second = losses[:, None, :], losses[None, :, :]
    return jnp.all(first <= second, axis=-1) & jnp.any(first < second, axis=-1)
