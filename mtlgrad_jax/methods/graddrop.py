"""GradDrop: at every coordinate keep the gradients of one sign, chosen at random."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.keys import key_sequence
from mtlgrad_jax.ground.leaves import at_least_single
from mtlgrad_jax.ground.meshes import own_key
from mtlgrad_jax.ground.presence import only_rows
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, RowMethod

CLAIMS = Claims("one sign per coordinate, at random", keeps="PF", needs="RK", sums_to="T", costs="pass over J")


class GradDropState(NamedTuple):
    """What `graddrop` remembers."""

    key: jax.Array  # uint32 key data


def rows(*, leak: jax.Array | float = 0.0, key: jax.Array | int = 0) -> RowMethod:
    """Return the method itself, for `descent_direction`; options as in `graddrop`."""
    keys = key_sequence(key)

    def init(num_tasks, params):
        del num_tasks, params  # one key, whatever the shapes
        return GradDropState(keys.init())

    def update(task_grads, state, *, present=None):
        task_grads = only_rows(task_grads, present)
        drawn, data = keys.draw(state.key)
        leaves, treedef = jax.tree.flatten(task_grads)
        keys_of = [own_key(jax.random.fold_in(drawn, index), leaf) for index, leaf in enumerate(leaves)]
        kept = [_drop(leaf, key, leak) for leaf, key in zip(leaves, keys_of, strict=True)]
        return jax.tree.unflatten(treedef, kept), None, GradDropState(data)

    return RowMethod(init, update, needs_num_tasks=False)


def graddrop(
    num_tasks: int | None = None,
    *,
    leak: jax.Array | float = 0.0,
    key: jax.Array | int = 0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the sum of the task gradients after dropping, coordinate by coordinate, those of one sign.

    The sign that survives is drawn with the share that it has of all magnitudes, so coordinates where tasks
    agree are untouched.

    P = ½(1 + Σgᵢ/Σ|gᵢ|),   u = Σ (ℓᵢ + (1−ℓᵢ)·(1[P>U]·1[gᵢ>0] + 1[P<U]·1[gᵢ<0])) gᵢ,   U ~ uniform(0, 1)

    Args:
      num_tasks: T, see `aggregate`.
      leak: ℓ, from 0 to 1, a number or shape `(T,)`: the share of a gradient that is never dropped.
      key: An int seed or a `jax.random.key`; it lives in the state and every step draws anew.
      axis_name: See `aggregate`. Every device draws numbers of its own for its piece of a leaf.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients; T times the gradient when all tasks agree. Its update is
      no combination of the rows, so `weights` in the state are zero; it may conflict with a task, which `gap`
      tells. Real and imaginary parts are coordinates of their own.

    Raises:
      ValueError: See `aggregate`; if `key` is not a key.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.graddrop(key=0)
      >>> state = tx.init(jnp.zeros(2))
      >>> for _ in range(3):
      ...     update, state = tx.update(jnp.array([[1.0, 1.0], [-1.0, 2.0]]), state)
      ...     assert float(update[0]) in (-1.0, 1.0) and float(update[1]) == 3.0

    References:
      Chen et al., arXiv 2010.06808, algorithm 1.
    """
    return aggregate(rows(leak=leak, key=key), num_tasks, axis_name=axis_name, nonfinite=nonfinite)


def _drop(leaf, key, leak):
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros(leaf.shape[1:], leaf.dtype)
    if jnp.iscomplexobj(leaf):
        real, imaginary = jax.random.split(key)
        return jax.lax.complex(_drop(leaf.real, real, leak), _drop(leaf.imag, imaginary, leak))
    wide = leaf.astype(at_least_single(leaf.dtype))
    magnitude = jnp.sum(jnp.abs(wide), axis=0)
    sign = jnp.sum(wide, axis=0) / jnp.where(magnitude > 0, magnitude, 1)
    positive = (1 + sign) / 2 > jax.random.uniform(key, leaf.shape[1:], wide.dtype)
    kept = jnp.where(positive, jnp.maximum(wide, 0), jnp.minimum(wide, 0))
    share = jnp.reshape(jnp.asarray(leak, wide.dtype), (-1,) + (1,) * (wide.ndim - 1))
    return jnp.sum(kept + share * (wide - kept), axis=0).astype(leaf.dtype)
