"""Every layer as matrix products: what entered it, and the gradients at its output, in one form for all."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mtlgrad_jax.ground.leaves import widest
from mtlgrad_jax.jacobians._layer_products import Lookups, Products
from mtlgrad_jax.jacobians._layer_uses import Use


def factors(uses: Sequence[Use], taps: Sequence[jax.Array], deltas: Sequence[jax.Array], own_taps: bool):
    """Bring what one parameter is used for into the form of `Products` or `Lookups`.

    Args:
      uses: Uses of the same entries in the same way.
      taps: What entered each layer beside the parameter.
      deltas: Gradients of every row of J with respect to the output of each layer.
      own_taps: Whether every row of J has its own taps, as with examples.

    Returns:
      Products or lookups, the places of all uses beside each other.
    """
    pairs = [_one_use(*arguments, own_taps) for arguments in zip(uses, taps, deltas, strict=True)]
    dtype = widest([right for _, right in pairs])
    right = jnp.concatenate([right.astype(dtype) for _, right in pairs], axis=2)
    if pairs[0][0].dtype == jnp.int32:
        return Lookups(jnp.concatenate([left for left, _ in pairs], axis=-1), right, uses[0].shapes[0][0])
    return Products(jnp.concatenate([left.astype(dtype) for left, _ in pairs], axis=-2), right)


def _one_use(use, tap, delta, own_taps):
    """Return a and δ with axes (rows, matrices, places, entries), a without the first if it is shared."""
    left, right = FORMS[use.name](use)
    loops = len(use.alias.loops)
    for _ in range(loops + own_taps):
        left = jax.vmap(left)
    for _ in range(loops + 1):
        right = jax.vmap(right)
    left, right = left(tap), right(delta)
    for loop in reversed(use.alias.loops):
        loops -= 1
        left, right = (_merge(x, loops + lead, loop.stacked) for x, lead in ((left, own_taps), (right, 1)))
    return left, right


def _merge(x, axis, stacked):
    """Merge the axis of a loop with that of the matrices behind it, or with that of the places behind that."""
    x = x if stacked else jnp.moveaxis(x, axis, axis + 1)
    first = axis if stacked else axis + 1
    return x.reshape(*x.shape[:first], x.shape[first] * x.shape[first + 1], *x.shape[first + 2 :])


def _dot(use):
    contract, batch = use.option["dimension_numbers"]
    other = 1 - use.operand
    num_stack, num_after = len(batch[0]), len(use.shapes[0]) - len(contract[0]) - len(batch[0])

    def left(tap):
        kept = [*batch[other], *_others(tap.ndim, batch[other], contract[other]), *contract[other]]
        return _as_three(tap.transpose(kept), num_stack, len(contract[other]))

    def right(delta):
        if use.operand == 0:  # its axes come first
            delta = jnp.moveaxis(
                delta, range(num_stack, num_stack + num_after), range(delta.ndim - num_after, delta.ndim)
            )
        return _as_three(delta, num_stack, num_after)

    return left, right


def _lookup(use):
    numbers, num_rows = use.option["dimension_numbers"], use.shapes[0][0]
    number = numbers.start_index_map.index(0)
    mode = lax.GatherScatterMode.from_any(use.option["mode"])

    def left(tap):
        rows = tap[..., number].reshape(1, -1).astype(jnp.int32)
        if mode == lax.GatherScatterMode.CLIP:
            return jnp.clip(rows, 0, num_rows - 1)
        return jnp.where((rows >= 0) & (rows < num_rows), rows, -1)

    def right(delta):
        kept = [*_others(delta.ndim, numbers.offset_dims), *numbers.offset_dims]
        return _as_three(delta.transpose(kept), 0, len(numbers.offset_dims))

    return left, right


def _row(use):
    last = use.shapes[0][0] - 1

    def left(tap):
        return jnp.clip(tap.astype(jnp.int32), 0, last).reshape(1, 1)

    return left, lambda delta: delta.reshape(1, 1, -1)


def _convolution(use):
    numbers, groups = use.option["dimension_numbers"], use.option["feature_group_count"]
    window = [use.shapes[0][axis] for axis in numbers.rhs_spec[2:]]
    steps = [use.shapes[1][axis] for axis in numbers.out_spec[2:]]

    def left(tap):
        """Return what every window saw, shape (groups, images · positions, channels · window)."""
        dilation = [0, 0, *(size - 1 for size in use.option["lhs_dilation"])]
        edges = [(0, 0), (0, 0), *use.option["padding"]]
        padding = [(low, high, inner) for (low, high), inner in zip(edges, dilation, strict=True)]
        padded = lax.pad(tap.transpose(numbers.lhs_spec), jnp.zeros((), tap.dtype), padding)
        seen = jnp.stack([_seen_at(padded, offset) for offset in np.ndindex(*window)])
        images, channels = padded.shape[:2]
        seen = seen.reshape(math.prod(window), images, groups, channels // groups, math.prod(steps))
        return seen.transpose(2, 1, 4, 3, 0).reshape(groups, images * math.prod(steps), -1)

    def _seen_at(padded, offset):
        start = [int(at) * size for at, size in zip(offset, use.option["rhs_dilation"], strict=True)]
        strides = use.option["window_strides"]
        limit = [at + (count - 1) * stride + 1 for at, count, stride in zip(start, steps, strides, strict=True)]
        return lax.slice(padded, [0, 0, *start], [*padded.shape[:2], *limit], [1, 1, *strides])

    def right(delta):
        delta = delta.transpose(numbers.out_spec)
        images, features = delta.shape[:2]
        delta = delta.reshape(images, groups, features // groups, math.prod(steps))
        return delta.transpose(1, 0, 3, 2).reshape(groups, images * math.prod(steps), -1)

    return left, right


def _as_three(x, num_first, num_last):
    """Merge the first, the middle and the last axes."""
    middle = x.ndim - num_last
    shape = (x.shape[:num_first], x.shape[num_first:middle], x.shape[middle:])
    return x.reshape([math.prod(axes) for axes in shape])


def _others(num_axes, *taken):
    return [axis for axis in range(num_axes) if all(axis not in axes for axes in taken)]


FORMS = {"dot_general": _dot, "gather": _lookup, "dynamic_slice": _row, "conv_general_dilated": _convolution}
