"""A random weighting as a stateful one: a fresh key at every step."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from mtlgrad_jax.ground.extras import picking_extras
from mtlgrad_jax.ground.keys import key_sequence
from mtlgrad_jax.typing import StatefulWeighting, Weights


class KeyedState(NamedTuple):
    """What `keyed` remembers."""

    key: jax.Array  # uint32 key data, its shape that of the key's implementation


def keyed(weighting: Callable[..., Weights], key: jax.Array | int) -> StatefulWeighting:
    """Give a random weighting its keys.

    The key lives in the state, so a run is reproducible from its seed and its checkpoint, and every step
    draws anew.

    Args:
      weighting: A function `(gram, key, **extras)` such as `pcgrad`.
      key: An int seed, a `jax.random.key` or a `jax.random.PRNGKey`. It may be traced: made from the key of each member
        inside `jax.vmap`, every member of a population draws by itself.

    Returns:
      A `typing.StatefulWeighting` for any number of tasks. Its weights sum to what those of `weighting` do.

    Raises:
      ValueError: If `key` is not a key.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.keyed(mtl.weightings.random_weights, key=0)
      >>> first, state = weighting.update(jnp.eye(2), weighting.init(2))
      >>> second, state = weighting.update(jnp.eye(2), state)
      >>> bool(jnp.any(first != second))
      True
    """
    keys = key_sequence(key)
    weigh = picking_extras(weighting, 2)

    def init(num_tasks):
        del num_tasks  # one key, whatever T
        return KeyedState(keys.init())

    def update(gram, state, **extras):
        drawn, data = keys.draw(state.key)
        return weigh(gram, drawn, **extras), KeyedState(data)

    return StatefulWeighting(init, update, needs_num_tasks=False, reads_gram=getattr(weighting, "reads_gram", True))
