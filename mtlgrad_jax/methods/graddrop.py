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


def rows(*, leak: jax.Array | float = 0.0, key: jax.Array | int = 0, batch_axis: int | None = None) -> RowMethod:
    """Return the method itself, for `descent_direction`; options as in `graddrop`.

    With a `batch_axis`, that of every leaf of a shared representation H, one sign is drawn for all examples of a batch,
    from Σ sign(H)∘∇_H Lᵢ over them: with method="shared_encoder" that is the paper's.
    """
    keys = key_sequence(key)

    def init(num_tasks, params):
        del num_tasks, params  # one key, whatever the shapes
        return GradDropState(keys.init())

    def update(task_grads, state, *, present=None, representation=None):
        task_grads = only_rows(task_grads, present)
        drawn, data = keys.draw(state.key)
        leaves, treedef = jax.tree.flatten(task_grads)
        keys_of = [own_key(jax.random.fold_in(drawn, index), leaf) for index, leaf in enumerate(leaves)]
        votes = leaves
        if batch_axis is not None:
            votes = [_votes(*pair, batch_axis) for pair in zip(leaves, _at_hand(representation), strict=True)]
        kept = [_drop(*entries, leak) for entries in zip(leaves, votes, keys_of, strict=True)]
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

    The paper does this at a shared activation rather than at the parameters, in the coordinates that the tasks see:
    `descent_direction((encoder_fn, heads_fn), params, mtl.methods.graddrop.rows(), ..., method="shared_encoder")`.

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
      Chen et al., arXiv 2010.06808, algorithm 1. Theirs, and LibMTL's, draws one sign per unit for a whole batch, from
      Σ sign(H)∘∇_H Lᵢ over its examples; that is `rows(batch_axis=0)`. The code of FAMO acts at the parameters.
    """
    return aggregate(rows(leak=leak, key=key), num_tasks, axis_name=axis_name, nonfinite=nonfinite)


def _at_hand(representation):
    if representation is None:
        raise ValueError(
            'graddrop expected a shared representation for its batch_axis, got none; pass method="shared_encoder" to '
            "descent_direction."
        )
    return jax.tree.leaves(representation)


def _votes(leaf, values, batch_axis):
    """Return Σ sign(H)∘∇_H Lᵢ over the examples of a batch, one entry per unit; integers have no say."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    votes = leaf.astype(at_least_single(leaf.dtype)) * jnp.sign(values).astype(at_least_single(leaf.dtype))[None]
    return jnp.sum(votes, axis=batch_axis + 1 if batch_axis >= 0 else batch_axis, keepdims=True)


def _drop(leaf, votes, key, leak):
    """Return the sum of the rows of a leaf without those whose vote has the wrong sign, entry by entry."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros(leaf.shape[1:], leaf.dtype)
    if jnp.iscomplexobj(leaf):
        real, imaginary = jax.random.split(key)
        return jax.lax.complex(_drop(leaf.real, votes.real, real, leak), _drop(leaf.imag, votes.imag, imaginary, leak))
    wide, votes = (array.astype(at_least_single(leaf.dtype)) for array in (leaf, votes))
    magnitude = jnp.sum(jnp.abs(votes), axis=0)
    sign = jnp.sum(votes, axis=0) / jnp.where(magnitude > 0, magnitude, 1)
    positive = (1 + sign) / 2 > jax.random.uniform(key, votes.shape[1:], wide.dtype)
    kept = jnp.where(jnp.where(positive, votes > 0, votes < 0), wide, 0)
    share = jnp.reshape(jnp.asarray(leak, wide.dtype), (-1,) + (1,) * (wide.ndim - 1))
    return jnp.sum(kept + share * (wide - kept), axis=0).astype(leaf.dtype)
