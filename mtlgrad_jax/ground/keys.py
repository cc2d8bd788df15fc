"""Random keys that live in a state: plain integers there, so that every checkpoint format can hold them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class KeySequence(NamedTuple):
    """One key per step, from one seed."""

    init: Callable[[], jax.Array]  # () -> data
    draw: Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # data -> (key, data)


def key_sequence(key: jax.Array | int) -> KeySequence:
    """Make a reproducible sequence of keys.

    Args:
      key: An int seed, a `jax.random.key` or a `jax.random.PRNGKey`.

    Returns:
      A pair: `init()` gives the data to store, uint32 of a fixed shape; `draw(data)` a fresh key and the data
      for the next draw.

    Raises:
      ValueError: If `key` is none of these.
    """
    dtype = jnp.result_type(key)
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    seed = jnp.ndim(key) == 0 and jnp.issubdtype(dtype, jnp.integer)
    legacy = jnp.ndim(key) == 1 and dtype == jnp.uint32
    if not (seed or legacy or (typed and jnp.ndim(key) == 0)):
        raise ValueError(f"expected key to be an int seed or one jax.random.key, got {dtype}{jnp.shape(key)}.")
    implementation = jax.random.key_impl(key) if typed else None

    def init():
        return jnp.asarray(key) if legacy else jax.random.key_data(key if typed else jax.random.key(key))

    def draw(data):
        used, kept = jax.random.split(jax.random.wrap_key_data(data, impl=implementation))
        return used, jax.random.key_data(kept)

    return KeySequence(init, draw)
