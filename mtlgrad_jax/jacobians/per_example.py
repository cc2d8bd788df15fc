"""J with one row per example: inner products of example gradients without storing them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.ranges import undo_scale
from mtlgrad_jax.jacobians._gram_in_blocks import gram_in_blocks
from mtlgrad_jax.jacobians._losses import Trainable, check_chunk_size, trainable
from mtlgrad_jax.jacobians.matrix_free import push_forward
from mtlgrad_jax.typing import Gram, PyTree, Weights


@dataclass(frozen=True)
class PerExample:
    """The gradients of B examples behind the interface of `typing.Jacobian`, made by `linearize`."""

    row: Callable[[jax.Array], list[jax.Array]]  # example number -> its gradient, trainable leaves
    pull_back: Callable[[jax.Array], tuple[list[jax.Array]]]  # s ↦ Jᵀs
    losses: jax.Array  # (B,)
    zeros: list[jax.Array]  # the update of the leaves that have no gradient
    where: Trainable
    chunk_size: int | None

    def gram(self) -> Gram:
        """Return JJᵀ."""
        return undo_scale(*self.scaled_gram())

    def scaled_gram(self) -> tuple[Gram, jax.Array]:
        """Return the Gram matrix of 2⁻ᵏJ and k, as `stacked.scaled_gram` does."""
        return gram_in_blocks(self.row, self.losses, self.chunk_size)

    def combine(self, weights: Weights) -> PyTree:
        """Return Jᵀw, the gradient of Σ wᵢLᵢ: one backward pass over the batch, no gradient of an example."""
        return self.where.merge(self.pull_back(weights.astype(self.losses.dtype))[0], self.zeros)

    def push(self, direction: PyTree) -> jax.Array:
        """Return Jv: one forward sweep over the batch."""
        return push_forward(lambda seed: self.pull_back(seed)[0], self.losses, self.where.split(direction)[0])


def linearize(
    loss_fn: Callable[..., jax.Array],
    params: PyTree,
    examples: PyTree,
    *,
    chunk_size: int | None = 32,
) -> tuple[jax.Array, PerExample]:
    """Evaluate a loss on every example and hold the Jacobian whose rows are the examples' gradients.

    For methods that weigh examples: instance-wise risk minimisation, gradient-guided masking of noisy
    labels. The Gram matrix is built from pairs of blocks of examples, leaf by leaf.

    Gᵢⱼ = ⟨∇L(θ, xᵢ), ∇L(θ, xⱼ)⟩,   u = Σ wᵢ ∇L(θ, xᵢ)

    Args:
      loss_fn: `loss_fn(params, example)` returning a scalar; a network that wants a batch gets
        `example[None]`. Examples must not see each other, as they do in batch normalisation.
      params: Any pytree; integer leaves carry no gradient and get zeros.
      examples: A pytree whose leaves have a leading axis of length B.
      chunk_size: Examples per block. `gram()` holds twice as many gradients and computes
        B²/(2·chunk_size) + B/2 of them; None holds all B at once.

    Returns:
      `(losses, jac)`: losses `(B,)`, and J with `jac.gram()` of shape `(B, B)`, `jac.combine(w)` and
      `jac.push(v)`.

    Raises:
      ValueError: If `chunk_size` is not positive, the examples share no leading axis, or a loss is not a
        scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> def loss_fn(params, example):
      ...     return jnp.sum(params * example)
      >>> losses, jac = mtl.jacobians.per_example.linearize(loss_fn, jnp.ones(2), jnp.array([[1.0, 0.0], [3.0, 4.0]]))
      >>> jac.gram()
      Array([[ 1.,  3.],
             [ 3., 25.]], dtype=float32)
      >>> jac.combine(jnp.array([1.0, 0.5]))
      Array([2.5, 2. ], dtype=float32)

    References:
      Wang et al., arXiv 2102.13549, for gradient-guided masking.
    """
    check_chunk_size(chunk_size, "example")
    _check_examples(examples)
    where = trainable(params)
    leaves, others = where.split(params)

    def loss(leaves, example):
        value = loss_fn(where.merge(leaves, others), example)
        if jnp.shape(value) != ():
            raise ValueError(
                f"expected one scalar loss per example, got shape {jnp.shape(value)}; "
                "loss_fn sees one example without the batch axis, reduce over everything."
            )
        return value

    def row(number):
        return jax.grad(loss)(leaves, jax.tree.map(lambda leaf: leaf[number], examples))

    losses, pull_back = jax.vjp(lambda leaves: jax.vmap(partial(loss, leaves))(examples), leaves)
    return losses, PerExample(row, pull_back, losses, [jnp.zeros_like(leaf) for leaf in others], where, chunk_size)


def _check_examples(examples):
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(examples)}
    if len(lengths) != 1 or () in lengths or (0,) in lengths:
        found = [jnp.shape(leaf) for leaf in jax.tree.leaves(examples)]
        raise ValueError(f"expected examples with one common leading axis, got shapes {found}; stack the examples.")
