"""The Gram matrix of a list of leaves: within the range of its type, and over the devices of a mesh."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtlgrad_jax.ground.leaves import (
    SLICE,
    SMALL,
    as_matrix,
    at_once,
    contract,
    in_slices,
    join,
    map_parts,
    parts,
    widest,
)
from mtlgrad_jax.ground.members import rarely
from mtlgrad_jax.ground.meshes import AxisName, check_axes, sum_of_pieces
from mtlgrad_jax.ground.ranges import exponent_of, powers_of_two
from mtlgrad_jax.typing import Gram

LAST = 4  # trials: as it is, scaled down, scaled up, and in the unit that the three have shown


@partial(jax.jit, static_argnames="axis_name")
def scaled_gram_of(leaves: list[jax.Array], axis_name: AxisName) -> tuple[Gram, jax.Array]:
    """Compute the Gram matrix of 2⁻ᵏJ and k; see `stacked.scaled_gram`, which checks the task axis.

    Args:
      leaves: Floating or complex, `(T, *param_shape)`.
      axis_name: Mesh axes to sum over, those of a leaf that is split over them.

    Returns:
      G, shape `(T, T)`, and k, an int32 scalar.

    Raises:
      ValueError: If leaves differ over a mesh axis that `axis_name` does not name.
    """
    return _scaled_gram_of(leaves, axis_name)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _scaled_gram_of(leaves, axis_name):
    check_axes(leaves, axis_name)
    leaves = [part for leaf in leaves for part in parts(leaf)]
    if jax.device_count() > 1:
        return _leaf_by_leaf(leaves, axis_name)
    return lax.platform_dependent(
        leaves,
        cpu=lambda leaves: _in_bundles(leaves, axis_name),
        default=lambda leaves: _leaf_by_leaf(leaves, axis_name),
    )


@_scaled_gram_of.defjvp
def _derivative(axis_name, primals, tangents):
    (leaves,), (moves,) = primals, tangents
    gram, exponent = scaled_gram_of(leaves, axis_name)
    first, second = powers_of_two(-exponent, gram.dtype)

    def scale(leaf):
        return map_parts(lambda part: _scale(part, gram.dtype, first, second), leaf)

    products = [contract(scale(leaf), scale(move), 1) for leaf, move in zip(leaves, moves, strict=True)]
    half = sum_of_pieces(products, axis_name)
    return (gram, exponent), (half + half.T, np.zeros((), jax.dtypes.float0))


def _leaf_by_leaf(leaves, axis_name):
    """Multiply each leaf as it lies, for leaves that may be split over devices: nothing is joined, cut or reshaped."""
    dtype = widest(leaves)

    def gram_of(powers):
        return sum_of_pieces([_square(dtype, powers, leaf) for leaf in leaves], axis_name)

    return _within_range(gram_of, dtype)


def _in_bundles(leaves, axis_name):
    """Multiply small leaves together and long ones slice by slice, for a lone CPU; in the rescue all but the long."""
    dtype, matrices = widest(leaves), [as_matrix(leaf) for leaf in leaves]

    def gram_of(powers):
        bundles = join(matrices, SMALL if powers is None else SLICE)
        square = partial(_square, dtype, powers)
        return sum_of_pieces([in_slices(square, *bundle) for bundle in bundles], axis_name)

    return _within_range(gram_of, dtype)


def _square(dtype, powers, *rows):
    whole = rows[0] if len(rows) == 1 else lax.concatenate(rows, 1)
    scaled = whole if powers is None else _scale(whole, dtype, *powers)
    return at_once(scaled, scaled).astype(dtype)


def _scale(leaf, dtype, first, second):
    return leaf.astype(dtype) * first * second


def _within_range(gram_of, dtype):
    """Return a Gram matrix and its unit, of J as it is if that will do."""

    def try_next(trial):
        return trial.judge(gram_of(powers_of_two(-trial.exponent, dtype)))

    trial = _first_trial(gram_of(None))
    # The loop alone would do, but a TPU lays J out anew for one, needed or not.
    end = rarely(
        ~trial.done, lambda trial: lax.while_loop(lambda t: ~t.done, try_next, trial), lambda trial: trial, trial
    )
    return end.gram, end.exponent


def _first_trial(gram):
    none = jnp.zeros_like(gram[0, 0], dtype=jnp.int32)  # varies over a mesh as the products do
    shortest = none + exponent_of(jnp.zeros((), gram.dtype))
    return _Trial(gram, exponent=none, longest=shortest, count=none, done=none > 0).judge(gram)


class _Trial(NamedTuple):
    """A Gram matrix in one unit, and what is known of the unit that it should have."""

    gram: jax.Array  # (T, T)
    exponent: jax.Array  # () int32, k, the unit of `gram` once done and that of the next trial before
    longest: jax.Array  # () int32, exponent of the longest finite row seen
    count: jax.Array  # () int32
    done: jax.Array  # () bool

    def judge(self, gram):
        """Return what follows from the Gram matrix of the unit asked for: it is the answer, or shows where to look.

        Rows that overflow in a unit show nothing; each length is seen by at least one of the three.
        """
        squares = jnp.diagonal(gram)
        largest = jnp.max(jnp.where(jnp.isfinite(squares), squares, 0))
        seen = self.exponent + exponent_of(jnp.sqrt(largest))
        longest = jnp.where(largest > 0, jnp.maximum(self.longest, seen), self.longest)
        count = self.count + 1
        done = (count == LAST) | ((count == 1) & ~out_of_range(squares))
        far = jnp.finfo(gram.dtype).maxexp * 3 // 4
        following = jnp.where(count == 1, far, jnp.where(count == 2, -far, longest + 1))
        return _Trial(gram, jnp.where(done, self.exponent, following), longest, count, done)


def out_of_range(squared_lengths: jax.Array) -> jax.Array:
    """Tell whether squares left the range of their type: overflow, underflow, or zeros that may be underflow.

    Args:
      squared_lengths: The diagonal of a Gram matrix, shape `(T,)`.

    Returns:
      A boolean scalar. A zero counts only if the longest gradient is short too.
    """
    info = jnp.finfo(squared_lengths.dtype)
    near_underflow = squared_lengths < info.tiny / info.eps
    hidden = (squared_lengths > 0) | (jnp.max(squared_lengths) < info.tiny**0.25)
    return jnp.any(~(squared_lengths < info.max / 2**8) | (near_underflow & hidden))
