"""J at a shared representation: T gradients of its size, one pull-back through the encoder, and what that may miss."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.leaves import contract, shapes
from mtlgrad_jax.ground.meshes import average_losses, split_axes, sum_of_pieces
from mtlgrad_jax.ground.ranges import undo_scale
from mtlgrad_jax.jacobians import matrix_free, stacked
from mtlgrad_jax.jacobians._isolation import isolated
from mtlgrad_jax.jacobians._losses import Trainable, check_chunk_size, places_of, stack_losses, trainable
from mtlgrad_jax.typing import Gram, PyTree, Weights

HEADS = ("own", "weighted")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        "losses",
        "representation",
        "representation_rest",
        "encoder_rest",
        "heads_rest",
        "pull_to_encoder",
        "pull_to_heads",
    ),
    meta_fields=("places", "heads", "chunk_size"),
)
@dataclass(frozen=True)
class SharedEncoder:
    """J at the representation H behind the interface of `typing.Jacobian`; made by `linearize`.

    It is a pytree, so it may leave a jitted function.
    """

    losses: jax.Array  # (T,)
    representation: PyTree  # H
    representation_rest: list[jax.Array | None]  # zeros for the leaves that carry no gradient, (T, ...)
    encoder_rest: list[jax.Array | None]
    heads_rest: list[jax.Array | None]
    pull_to_encoder: Callable[..., Any]  # from leaves of H to leaves of the encoder
    pull_to_heads: Callable[..., Any]  # from losses to leaves of the heads and of H
    places: "_Places"
    heads: str
    chunk_size: int | None

    @property
    def representation_grads(self) -> PyTree:
        """The rows ∇_H Lᵢ, leaves `(T, *representation_shape)`."""
        pull_back = isolated(self.pull_to_heads, self.losses)
        rows = jax.vmap(lambda seed: pull_back(seed)[1])(matrix_free.one_hot(self.losses))
        return self.places.representation.merge(rows, self.representation_rest)

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.losses.shape[0]

    def gram(self) -> Gram:
        """Return the inner products ⟨∇_H Lᵢ, ∇_H Lⱼ⟩."""
        return undo_scale(*self.scaled_gram())

    def scaled_gram(self) -> tuple[Gram, jax.Array]:
        """Return the Gram matrix of 2⁻ᵏJ and k, as `stacked.scaled_gram` does."""
        if self.chunk_size is None:
            return self.rows().scaled_gram()
        return matrix_free.gram_by_sweeps(lambda seed: self.pull_to_heads(seed)[1], self.losses, self.chunk_size)

    def combine(self, weights: Weights, *, keep: jax.Array | None = None) -> PyTree:
        """Return a tree like `params`: Σ wᵢ∇_H Lᵢ pulled back through the encoder, and the heads' gradients."""
        pull_back, own = isolated(self.pull_to_heads, self.losses), jnp.ones_like(self.losses)
        if keep is not None:
            weights, own = jnp.where(keep, weights, 0), keep.astype(own.dtype)
        heads, representation = pull_back(weights.astype(self.losses.dtype))
        (encoder,) = self.pull_to_encoder(representation)
        if self.heads == "own":
            heads, _ = pull_back(own)
        return self.places.join(encoder, self.encoder_rest, heads, self.heads_rest)

    def rows(self) -> stacked.Stacked:
        """Return the rows ∇_H Lᵢ, for a method that works on them; `pull` brings its update to the parameters."""
        rows = self.representation_grads
        return stacked.Stacked(rows, split_axes(jax.tree.leaves(rows), self.losses))

    def pull(self, update: PyTree, *, keep: jax.Array | None = None) -> PyTree:
        """Return a tree like `params`: an update at H pulled back through the encoder, and the heads' own gradients."""
        own = jnp.ones_like(self.losses) if keep is None else keep.astype(self.losses.dtype)
        moving, _ = self.places.representation.split(update)
        (encoder,) = self.pull_to_encoder(moving)
        heads, _ = isolated(self.pull_to_heads, self.losses)(own)
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

    params: Any  # a jax.tree_util.PyTreeDef, which type checkers do not see
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
      the Jacobian that the bound stands in for. Any weighting applies, those with auxiliaries too, and a method on
      rows that remembers none of them (`graddrop`, `trimmed_mean`): it works on `jac.rows()`, the gradients at H, and
      `jac.pull(update)` brings what it makes of them to the parameters, with the heads' own gradients. A task whose
      gradient is not finite spoils its row and column of G and, with a weight of zero, nothing of the encoder; with
      `heads="own"` its own head still gets that gradient, unless it is left out.

    Raises:
      ValueError: If `params` is no such pair, `heads` is unknown, losses or representation are malformed, or
        losses differ over a mesh axis that `axis_name` does not name.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
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
    in_encoder, in_heads = trainable(encoder_params), places_of(heads_params)
    encoder_floats, encoder_rest = in_encoder.split(encoder_params)
    heads_floats, heads_rest = in_heads.split(heads_params)

    def encode(floats):
        representation = encoder_fn(in_encoder.merge(floats, encoder_rest), *args)
        return places_of(representation).split(representation)[0], representation

    moving, pull_to_encoder, representation = jax.vjp(encode, encoder_floats, has_aux=True)
    if not moving:
        raise ValueError(f"encoder_fn expected to return floating-point leaves, got {shapes(representation)}.")
    in_representation = places_of(representation)
    _, still = in_representation.split(representation)

    def score(floats, moving):
        whole = in_representation.merge(moving, still)
        result = heads_fn(in_heads.merge(floats, heads_rest), whole, *args)
        losses, aux = result if has_aux else (result, None)
        return average_losses(stack_losses(losses), [*encoder_floats, *floats], axis_name), aux

    losses, pull_to_heads, aux = jax.vjp(score, heads_floats, moving, has_aux=True)
    jac = SharedEncoder(
        losses=losses,
        representation=representation,
        representation_rest=in_representation.zeros(still, losses.shape[0]),
        encoder_rest=in_encoder.zeros(encoder_rest),
        heads_rest=in_heads.zeros(heads_rest),
        pull_to_encoder=pull_to_encoder,
        pull_to_heads=pull_to_heads,
        places=_Places(container, in_encoder, in_heads, in_representation),
        heads=heads,
        chunk_size=chunk_size,
    )
    return ((losses, aux) if has_aux else losses), jac


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

    Returns:
      None.

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
