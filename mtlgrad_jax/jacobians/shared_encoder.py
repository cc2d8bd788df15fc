"""J at a shared representation: T gradients of its size, and one pull-back through the encoder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.leaves import is_inexact, shapes
from mtlgrad_jax.ground.meshes import average_losses, split_axes
from mtlgrad_jax.ground.ranges import undo_scale
from mtlgrad_jax.jacobians import matrix_free, stacked
from mtlgrad_jax.jacobians._losses import Trainable, check_chunk_size, stack_losses, trainable
from mtlgrad_jax.jacobians._shared_encoder_checks import (
    Verification,
    is_disjoint,
    representation_overlap,
    verify,
    warn_if_disjoint,
)
from mtlgrad_jax.typing import Gram, PyTree, Weights

__all__ = [
    "SharedEncoder",
    "Verification",
    "is_disjoint",
    "linearize",
    "representation_overlap",
    "verify",
    "warn_if_disjoint",
]

HEADS = ("own", "weighted")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("losses", "representation_rest", "encoder_rest", "heads_rest", "pull_to_encoder", "pull_to_heads"),
    meta_fields=("places", "heads", "chunk_size"),
)
@dataclass(frozen=True)
class SharedEncoder:
    """J at the representation H behind the interface of `typing.Jacobian`; made by `linearize`.

    It is a pytree, so it may leave a jitted function.
    """

    losses: jax.Array  # (T,)
    representation_rest: list[jax.Array]  # zeros for the leaves that carry no gradient, (T, ...)
    encoder_rest: list[jax.Array]
    heads_rest: list[jax.Array]
    pull_to_encoder: Callable[..., Any]  # from leaves of H to leaves of the encoder
    pull_to_heads: Callable[..., Any]  # from losses to leaves of the heads and of H
    places: "_Places"
    heads: str
    chunk_size: int | None

    @property
    def representation_grads(self) -> PyTree:
        """The rows ∇_H Lᵢ, leaves `(T, *representation_shape)`."""
        rows = jax.vmap(lambda seed: self.pull_to_heads(seed)[1])(matrix_free.one_hot(self.losses))
        return self.places.representation.merge(rows, self.representation_rest)

    def gram(self) -> Gram:
        """Return the inner products ⟨∇_H Lᵢ, ∇_H Lⱼ⟩."""
        return undo_scale(*self.scaled_gram())

    def scaled_gram(self) -> tuple[Gram, jax.Array]:
        """Return the Gram matrix of 2⁻ᵏJ and k, as `stacked.scaled_gram` does."""
        if self.chunk_size is None:
            rows = self.representation_grads
            return stacked.scaled_gram(rows, axis_name=split_axes(jax.tree.leaves(rows), self.losses))
        return matrix_free.gram_by_sweeps(lambda seed: self.pull_to_heads(seed)[1], self.losses, self.chunk_size)

    def combine(self, weights: Weights) -> PyTree:
        """Return a tree like `params`: Σ wᵢ∇_H Lᵢ pulled back through the encoder, and the heads' gradients."""
        heads, representation = self.pull_to_heads(weights.astype(self.losses.dtype))
        (encoder,) = self.pull_to_encoder(representation)
        if self.heads == "own":
            heads, _ = self.pull_to_heads(jnp.ones_like(self.losses))
        return self.places.join(encoder, self.encoder_rest, heads, self.heads_rest)

    def push(self, direction: PyTree) -> jax.Array:
        """Return Jv with J at the parameters, one forward sweep: how fast a step changes the losses themselves."""
        return self.at_parameters().push(direction)

    def at_parameters(self) -> matrix_free.MatrixFree:
        """Return the Jacobian with respect to all parameters, whose Gram matrix costs T sweeps through the encoder."""
        return matrix_free.MatrixFree(
            pull_back=jax.tree_util.Partial(_pull_to_parameters, self.pull_to_encoder, self.pull_to_heads),
            losses=self.losses,
            zeros=[*self.encoder_rest, *self.heads_rest],
            where=self.places.of_parameters(),
            mode="forward",
            chunk_size=1,
        )


class _Places(NamedTuple):
    """Which leaves of which tree carry a gradient."""

    params: jax.tree_util.PyTreeDef
    encoder: Trainable
    heads: Trainable
    representation: Trainable

    def join(self, encoder, encoder_rest, heads, heads_rest):
        return self.params.unflatten([self.encoder.merge(encoder, encoder_rest), self.heads.merge(heads, heads_rest)])

    def of_parameters(self) -> Trainable:
        """Return where the leaves of both stand in the tree of all parameters."""
        marks = self.encoder.is_trainable, self.heads.is_trainable
        both = [part.treedef.unflatten(mark) for part, mark in zip((self.encoder, self.heads), marks, strict=True)]
        return Trainable(jax.tree.structure(self.params.unflatten(both)), marks[0] + marks[1])


def _pull_to_parameters(pull_to_encoder, pull_to_heads, seed):
    heads, representation = pull_to_heads(seed)
    (encoder,) = pull_to_encoder(representation)
    return ([*encoder, *heads],)


def linearize(
    encoder_fn: Callable[..., PyTree],
    heads_fn: Callable[..., Any],
    params: PyTree,
    *args: Any,
    heads: str = "own",
    has_aux: bool = False,
    chunk_size: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[Any, SharedEncoder]:
    """Evaluate the losses and their gradients with respect to the shared representation only.

    One pass forward, T cheap passes back through the heads, and for `jac.combine` one through the encoder,
    whatever T is. With gᵢ = (∂H/∂θ)ᵀ∇_H Lᵢ the norm at H bounds the one at θ, and the weights are those that
    minimise the bound ("MGDA-UB"). The bound is not exact, not even for an invertible ∂H/∂θ: a direction
    without conflict at H can conflict at θ. `verify` measures it.

    ‖Σ wᵢgᵢ‖² ≤ ‖∂H/∂θ‖² ‖Σ wᵢ∇_H Lᵢ‖²

    Samples must carry every label: if each belongs to one task, the gradients at H never meet, G is diagonal
    and says nothing about conflicts (`representation_overlap`, `is_disjoint`).

    Args:
      encoder_fn: `encoder_fn(encoder_params, *args)`, returns the representation H: any pytree, with or
        without a batch axis.
      heads_fn: `heads_fn(heads_params, representation, *args)`, returns losses of shape `(T,)`, or a tuple,
        list or dict of T scalars; with `has_aux` a pair of these and anything.
      params: A pair `(encoder_params, heads_params)` or `{"encoder": ..., "heads": ...}`.
      *args: The batch, handed to both functions.
      heads: What the heads receive from `jac.combine(w)`: `"own"` is Σ ∇Lᵢ, so that a head that serves one
        task gets that task's plain gradient; `"weighted"` is Σ wᵢ∇Lᵢ, the gradient of the weighted loss.
      has_aux: Whether `heads_fn` returns auxiliary data too.
      chunk_size: None to hold the T gradients at H for the Gram matrix; a number to compute it by sweeps
        through the heads as `matrix_free` does, so many tasks at a time and none kept, which is faster where
        H is large: 4 halves the time of a step with T = 40.
      axis_name: Mesh axes over which the batch, and with it H, is split inside `shard_map`; the losses are
        averaged over them. `()` treats each device on its own.

    Returns:
      `(losses, jac)`, or `((losses, aux), jac)`: losses `(T,)`, and a `typing.Jacobian` with `jac.gram()`,
      `(T, T)`, `jac.combine(w)`, a tree like `params`, and `jac.push(v)`, which is exact. `jac.at_parameters()` is
      the Jacobian that the bound stands in for. Any weighting applies, those with auxiliaries too.

    Raises:
      ValueError: If `params` is no such pair, `heads` is unknown, losses or representation are malformed, or
        losses differ over a mesh axis that `axis_name` does not name.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> def encoder_fn(encoder, x):
      ...     return encoder * x
      >>> def heads_fn(heads, representation, x):
      ...     return jnp.stack([heads["a"] * representation[0], heads["b"] * representation[1]])
      >>> params = {"encoder": jnp.ones(2), "heads": {"a": jnp.float32(1), "b": jnp.float32(2)}}
      >>> losses, jac = mtl.jacobians.shared_encoder.linearize(encoder_fn, heads_fn, params, 3.0)
      >>> weights = mtl.weightings.mgda(jac.gram())
      >>> weights, jac.combine(weights)["encoder"], jac.combine(weights)["heads"]["b"]
      (Array([0.8, 0.2], dtype=float32), Array([2.4, 1.2], dtype=float32), Array(3., dtype=float32))

    References:
      Sener & Koltun, arXiv 1810.04650, section 3.3; Su, scientific-spaces 8896 (22)–(23), who refutes the
      proof of exactness with x = (1,−2), y = (1,1), M = diag(3,1): xᵀy < 0 < xᵀMy.
    """
    if heads not in HEADS:
        raise ValueError(f"expected heads to be one of {', '.join(map(repr, HEADS))}, got {heads!r}.")
    check_chunk_size(chunk_size)
    container, encoder_params, heads_params = _unpack(params)
    in_encoder, in_heads = trainable(encoder_params), _places_of(heads_params)
    encoder_floats, encoder_rest = in_encoder.split(encoder_params)
    heads_floats, heads_rest = in_heads.split(heads_params)

    def encode(floats):
        representation = encoder_fn(in_encoder.merge(floats, encoder_rest), *args)
        return _places_of(representation).split(representation)[0], representation

    moving, pull_to_encoder, representation = jax.vjp(encode, encoder_floats, has_aux=True)
    if not moving:
        raise ValueError(f"encoder_fn expected to return floating-point leaves, got {shapes(representation)}.")
    in_representation = _places_of(representation)
    _, still = in_representation.split(representation)

    def score(floats, moving):
        whole = in_representation.merge(moving, still)
        result = heads_fn(in_heads.merge(floats, heads_rest), whole, *args)
        losses, aux = result if has_aux else (result, None)
        return average_losses(stack_losses(losses), [*encoder_floats, *floats], axis_name), aux

    losses, pull_to_heads, aux = jax.vjp(score, heads_floats, moving, has_aux=True)
    jac = SharedEncoder(
        losses=losses,
        representation_rest=[jnp.zeros((losses.shape[0], *jnp.shape(leaf)), jnp.result_type(leaf)) for leaf in still],
        encoder_rest=[jnp.zeros_like(leaf) for leaf in encoder_rest],
        heads_rest=[jnp.zeros_like(leaf) for leaf in heads_rest],
        pull_to_encoder=pull_to_encoder,
        pull_to_heads=pull_to_heads,
        places=_Places(container, in_encoder, in_heads, in_representation),
        heads=heads,
        chunk_size=chunk_size,
    )
    return ((losses, aux) if has_aux else losses), jac


def _places_of(tree):
    leaves, treedef = jax.tree.flatten(tree)
    return Trainable(treedef, tuple(map(is_inexact, leaves)))


def _unpack(params):
    """Return the outer container and the parameters of encoder and heads."""
    children, container = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda node: node is not params)
    keys = [jax.tree_util.keystr(path, simple=True) for path, _ in children]
    if keys not in (["0", "1"], ["encoder", "heads"]):
        raise ValueError(
            "expected params to be a pair (encoder_params, heads_params) or {'encoder': ..., 'heads': ...}, got "
            f"{type(params).__name__} with entries {keys}."
        )
    return container, children[0][1], children[1][1]
