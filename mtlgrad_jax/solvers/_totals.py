"""Sums as products with a constant matrix.

On the CPU every reduction in a program costs 0.2 µs of each call, run or not (jaxlib 0.10 keeps a buffer for every
scalar of its function), an argmin 1 µs; a product costs nothing where it is not run. Programs here have dozens of them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mtlgrad_jax.ground.grams import dot


def total(x: jax.Array) -> jax.Array:
    """Return the sum of a vector."""
    return dot(np.ones((2, x.size), x.dtype), x)[0]  # of a single row a compiler makes a reduction


def some(mask: jax.Array) -> jax.Array:
    """Return whether any entry of a boolean vector is true."""
    return total(mask.astype(jnp.float32)) > 0


def first(mask: jax.Array) -> jax.Array:
    """Return a boolean vector with the first true entry only."""
    earlier = np.tri(mask.size, k=-1, dtype=np.float32)
    return mask & ~(dot(earlier, mask.astype(jnp.float32)) > 0)
