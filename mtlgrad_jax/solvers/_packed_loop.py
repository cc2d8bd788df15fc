"""A loop over a record of small arrays that carries them in one array of a kind.

Every array of a carry is a kernel that writes it and a copy to keep the old one. XLA runs dozens of such small things
at once on a CPU, and its threads then wait for each other longer than they work.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

State = TypeVar("State")


def while_loop(condition: Callable[[State], jax.Array], body: Callable[[State], State], start: State) -> State:
    """Return what `lax.while_loop` does.

    Args:
      condition: From a state to a boolean scalar.
      body: From a state to the next.
      start: A pytree of arrays; floats of one type come in one array, integers and booleans in another.

    Returns:
      The last state.
    """
    leaves, treedef = jax.tree.flatten(start)
    kinds = [leaf.dtype if jnp.issubdtype(leaf.dtype, jnp.inexact) else jnp.dtype(jnp.int32) for leaf in leaves]
    order = list(dict.fromkeys(kinds))

    def pack(state):
        flat = [jnp.ravel(leaf).astype(kind) for leaf, kind in zip(jax.tree.leaves(state), kinds, strict=True)]
        return [jnp.concatenate([leaf for leaf, own in zip(flat, kinds, strict=True) if own == kind]) for kind in order]

    def unpack(packed):
        begins, parts = dict.fromkeys(order, 0), dict(zip(order, packed, strict=True))
        state = []
        for leaf, kind in zip(leaves, kinds, strict=True):
            begin, begins[kind] = begins[kind], begins[kind] + leaf.size
            state.append(parts[kind][begin : begins[kind]].reshape(leaf.shape).astype(leaf.dtype))
        return treedef.unflatten(state)

    return unpack(
        lax.while_loop(lambda packed: condition(unpack(packed)), lambda p: pack(body(unpack(p))), pack(start))
    )
