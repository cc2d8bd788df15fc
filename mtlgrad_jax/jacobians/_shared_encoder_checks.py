"""What minimising at the representation may have missed: conflicts at the parameters, tasks that never meet."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.leaves import contract
from mtlgrad_jax.ground.meshes import split_axes, sum_of_pieces
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.typing import Weights

if TYPE_CHECKING:
    from mtlgrad_jax.jacobians.shared_encoder import SharedEncoder


class Verification(NamedTuple):
    """Cosines of every task's gradient with the combined direction; negative where they conflict."""

    at_representation: jax.Array  # (T,), of ∇_H Lᵢ with Σ wⱼ∇_H Lⱼ
    at_parameters: jax.Array  # (T,), of the encoder's gradient of Lᵢ with that of the update


def verify(jac: SharedEncoder, weights: Weights) -> Verification:
    """Measure whether a direction found at the representation conflicts at the encoder's parameters.

    It pulls every task's gradient back, T times the cost and memory that the representation saves: a check
    for now and then, not for every step.

    Args:
      jac: From `linearize`.
      weights: w, shape `(T,)`.

    Returns:
      `Verification(at_representation, at_parameters)`: cosines, shape `(T,)` each, 0 for a zero gradient or
      a zero direction. A task with a negative cosine is hurt; where the direction all but vanishes the
      cosine is rounding error.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> def encoder_fn(theta):
      ...     return jnp.array([3.0, 1.0]) * theta
      >>> def heads_fn(heads, h):
      ...     return jnp.stack([h[0] + 2 * h[1], h[1] - h[0]])
      >>> losses, jac = mtl.jacobians.shared_encoder.linearize(encoder_fn, heads_fn, (jnp.zeros(2), None))
      >>> cosines = mtl.jacobians.shared_encoder.verify(jac, mtl.weightings.mgda(jac.gram()))
      >>> cosines.at_representation > 0, cosines.at_parameters > 0
      (Array([ True,  True], dtype=bool), Array([False,  True], dtype=bool))
    """
    rows, _ = jac.places.representation.split(jac.representation_grads)
    full = jax.vmap(lambda row: jac.pull_to_encoder(row)[0])(rows)
    at_parameters, _ = stacked.scaled_gram(full, axis_name=split_axes(full, jac.losses))
    return Verification(_cosines(jac.scaled_gram()[0], weights), _cosines(at_parameters, weights))


def representation_overlap(jac: SharedEncoder) -> jax.Array:
    """Measure how much of the representation each pair of tasks shares.

    Args:
      jac: From `linearize`.

    Returns:
      Shape `(T, T)`, float32: entries of H with a non-zero gradient of both tasks, relative to those of the
      task with fewer. One if they use the same entries; zero if they never meet, as when no sample carries
      both labels, and for a zero gradient.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> def heads_fn(heads, h):
      ...     return jnp.stack([h[0] ** 2, h[1] ** 2, (h[0] - h[1]) ** 2])
      >>> _, jac = mtl.jacobians.shared_encoder.linearize(lambda e: e, heads_fn, (jnp.array([1.0, 2.0]), None))
      >>> mtl.jacobians.shared_encoder.representation_overlap(jac)
      Array([[1., 0., 1.],
             [0., 1., 1.],
             [1., 1., 1.]], dtype=float32)
    """
    rows, _ = jac.places.representation.split(jac.representation_grads)
    used = [(row != 0).astype(jnp.float32) for row in rows]
    counts = sum_of_pieces([contract(row, row, 1) for row in used], split_axes(used, jac.losses))
    sizes = jnp.diagonal(counts)
    return counts / jnp.maximum(jnp.minimum(sizes[:, None], sizes[None, :]), 1)


def is_disjoint(jac: SharedEncoder) -> jax.Array:
    """Tell whether no two tasks meet at the representation, so that its Gram matrix carries no interaction.

    Args:
      jac: From `linearize`.

    Returns:
      A boolean scalar, usable under jit; false with fewer than two tasks that have a gradient.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> def heads_fn(heads, h, owner):
      ...     return jnp.stack([jnp.sum(jnp.where(owner == task, h**2, 0)) for task in range(2)])
      >>> def encoder_fn(encoder, owner):
      ...     return encoder
      >>> params = (jnp.ones(3), None)
      >>> _, jac = mtl.jacobians.shared_encoder.linearize(encoder_fn, heads_fn, params, jnp.array([0, 1, 1]))
      >>> mtl.jacobians.shared_encoder.is_disjoint(jac)
      Array(True, dtype=bool)
    """
    overlap = representation_overlap(jac)
    present = jnp.diagonal(overlap) > 0
    return (jnp.sum(present) > 1) & (jnp.sum(overlap > 0) == jnp.sum(present))


def warn_if_disjoint(jac: SharedEncoder) -> None:
    """Warn, also from inside a jitted function, when no two tasks meet at the representation.

    The warning travels to the host (`jax.debug.callback`) in the steps that need it; call it while setting
    up, and leave it out of a step that is to run at full speed.

    Args:
      jac: From `linearize`.

    Example:
      >>> import warnings
      >>> import jax, jax.numpy as jnp, mtlgrad_jax as mtl
      >>> _, jac = mtl.jacobians.shared_encoder.linearize(lambda e: e, lambda heads, h: h**2, (jnp.ones(2), None))
      >>> with warnings.catch_warnings(record=True) as caught:
      ...     warnings.simplefilter("always")
      ...     mtl.jacobians.shared_encoder.warn_if_disjoint(jac)
      ...     jax.effects_barrier()
      >>> len(caught)
      1
    """
    lax.cond(is_disjoint(jac), lambda: jax.debug.callback(_warn), lambda: None)


def _warn():
    warnings.warn(
        "No two tasks have a gradient at the same entry of the representation, as when every sample carries one "
        "label only: the Gram matrix is diagonal and shows no conflict. Use task_value_and_grad or matrix_free.",
        stacklevel=2,
    )


def _cosines(gram, weights):
    weights = weights.astype(gram.dtype)
    slope = jnp.matmul(gram, weights, precision=lax.Precision.HIGHEST)
    square = jnp.matmul(weights, slope, precision=lax.Precision.HIGHEST)
    lengths, size = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0)), jnp.sqrt(jnp.maximum(square, 0))
    return jnp.clip(_divide(_divide(slope, lengths), size), -1, 1)


def _divide(numerator, length):
    return jnp.where(length > 0, numerator / jnp.where(length > 0, length, 1), 0)
