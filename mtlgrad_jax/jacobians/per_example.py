"""J with one row per example: inner products of example gradients without storing them."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from mtlgrad_jax.jacobians._layer_plan import make_plan, trace
from mtlgrad_jax.jacobians._layer_probes import evaluate, nested, zero_probe
from mtlgrad_jax.jacobians._losses import check_chunk_size, trainable
from mtlgrad_jax.jacobians.structured import Structured
from mtlgrad_jax.typing import PyTree


def linearize(
    loss_fn: Callable[..., jax.Array],
    params: PyTree,
    examples: PyTree,
    *,
    chunk_size: int | None = 32,
) -> tuple[jax.Array, Structured]:
    """Evaluate a loss on every example and hold the Jacobian whose rows are the examples' gradients.

    For methods that weigh examples: instance-wise risk minimisation, gradient-guided masking of noisy
    labels. The Gram matrix costs one backward pass for all examples, to the outputs of layers, and products of
    these; see `structured.linearize`. Large leaves that enter no layer that is recognised go block by block.

    Gᵢⱼ = ⟨∇L(θ, xᵢ), ∇L(θ, xⱼ)⟩ = Σ ⟨aᵢᵀδᵢ, aⱼᵀδⱼ⟩,   u = Σ wᵢ ∇L(θ, xᵢ)

    Args:
      loss_fn: `loss_fn(params, example)` returning a scalar; a network that wants a batch gets
        `example[None]`. Examples must not see each other, as they do in batch normalisation.
      params: Any pytree; integer leaves carry no gradient and get zeros.
      examples: A pytree whose leaves have a leading axis of length B.
      chunk_size: Examples per block, for leaves that go block by block: `gram()` holds twice as many of their
        gradients and computes B²/(2·chunk_size) + B/2 of them; None holds all B at once.

    Returns:
      `(losses, jac)`: losses `(B,)`, and J with `jac.gram()` of shape `(B, B)`, `jac.combine(w)`,
      `jac.push(v)`, `jac.row_lengths()` and `jac.report()`.

    Raises:
      ValueError: If `chunk_size` is not positive, the examples share no leading axis, or a loss is not a
        scalar.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
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

    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), examples)
    traced = trace(loss, leaves, one)
    plan = make_plan(traced.closed, len(leaves), large_rows=False)
    uses = nested(plan.uses, plan.uses)

    def probed(leaves, example, own, probes):
        leaves = [leaf + own[number] if number in own else leaf for number, leaf in enumerate(leaves)]
        inputs = [*leaves, *jax.tree.leaves(example)]
        (value,), taps = evaluate(traced.closed.jaxpr, traced.closed.consts, inputs, uses, probes)
        return value, taps

    (num_examples,) = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(examples)}
    own = {number: jnp.zeros((num_examples, *jnp.shape(leaves[number])), leaves[number].dtype) for number in plan.rows}
    probes = nested(plan.uses, [zero_probe(use, (num_examples,)) for use in plan.uses])
    batched = jax.vmap(probed, (None, 0, 0, 0))
    losses, pull_back, taps = jax.vjp(
        lambda leaves, own, probes: batched(leaves, examples, own, probes), leaves, own, probes, has_aux=True
    )
    return losses, Structured(
        pull_back=Partial(_pull_leaves, pull_back),
        rows_and_deltas=Partial(_rows_and_deltas, pull_back, losses),
        row=Partial(partial(_row, loss, plan.large), leaves, examples),
        taps=taps,
        losses=losses,
        zeros=where.zeros(others),
        where=where,
        plan=plan,
        own_taps=True,
        chunk_size=chunk_size,
    )


def _pull_leaves(pull_back, seed):
    return pull_back(seed)[0]


def _rows_and_deltas(pull_back, losses):
    """Pull the sum of all losses back, once: what is each example's own has each example's own gradient."""
    _, own, deltas = pull_back(jnp.ones_like(losses))
    return list(own.values()), deltas


def _row(loss, large, leaves, examples, number):
    """Return the gradient of one example with respect to the leaves that go block by block."""
    example = jax.tree.map(lambda leaf: leaf[number], examples)

    def of_large(large_leaves):
        chosen = dict(zip(large, large_leaves, strict=True))
        return loss([chosen.get(place, leaf) for place, leaf in enumerate(leaves)], example)

    return jax.grad(of_large)([leaves[place] for place in large])


def _check_examples(examples):
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(examples)}
    if len(lengths) != 1 or () in lengths or (0,) in lengths:
        found = [jnp.shape(leaf) for leaf in jax.tree.leaves(examples)]
        raise ValueError(f"expected examples with one common leading axis, got shapes {found}; stack the examples.")
