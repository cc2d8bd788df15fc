"""J layer by layer: gradients at the outputs of layers tell the Gram matrix, and no row of J is formed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from mtlgrad_jax.ground.leaves import widest
from mtlgrad_jax.ground.members import rarely
from mtlgrad_jax.ground.meshes import average_losses, split_axes, sum_of_pieces
from mtlgrad_jax.ground.ranges import scale_by_power_of_two, undo_scale
from mtlgrad_jax.jacobians._gram_in_blocks import gram_in_blocks
from mtlgrad_jax.jacobians._isolation import isolated
from mtlgrad_jax.jacobians._layer_plan import Plan, make_plan, trace
from mtlgrad_jax.jacobians._layer_probes import Nested, evaluate, nested, zero_probe
from mtlgrad_jax.jacobians._layer_products import to_unit
from mtlgrad_jax.jacobians._losses import Trainable, check_chunk_size, loss_vector, map_in_chunks, trainable
from mtlgrad_jax.jacobians._scaled_gram import out_of_range
from mtlgrad_jax.jacobians._unit_rows import undo_unit
from mtlgrad_jax.jacobians.matrix_free import push_forward
from mtlgrad_jax.typing import Gram, PyTree, Weights


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("pull_back", "rows_and_deltas", "row", "taps", "losses", "zeros"),
    meta_fields=("where", "plan", "own_taps", "chunk_size"),
)
@dataclass(frozen=True)
class Structured:
    """The linearised losses behind the interface of `typing.Jacobian`, made by `linearize`.

    A pytree, as `matrix_free.MatrixFree`: it may leave one `jax.jit` and enter another.
    """

    pull_back: Partial  # s ↦ Jᵀs, (R,) -> trainable leaves
    rows_and_deltas: Partial  # () -> rows of the leaves in plan.rows, gradients at the outputs of layers
    row: Partial  # i ↦ the gradient of loss i with respect to the leaves in plan.large
    taps: Nested  # what entered the layers
    losses: jax.Array  # (R,)
    zeros: list[jax.Array | None]  # the update of the leaves that have no gradient
    where: Trainable
    plan: Plan
    own_taps: bool  # one set of taps for every row
    chunk_size: int | None

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.losses.shape[0]

    def gram(self) -> Gram:
        """Return JJᵀ."""
        return undo_scale(*self.scaled_gram())

    def scaled_gram(self) -> tuple[Gram, jax.Array]:
        """Return the Gram matrix of 2⁻ᵏJ and k, as `stacked.scaled_gram` does."""
        if not self.plan.large:
            return self._beside_each_other()
        in_blocks = gram_in_blocks(self.row, self.losses, self.chunk_size)
        return add_scaled(self._beside_each_other(), in_blocks) if self.plan.layers or self.plan.rows else in_blocks

    def combine(self, weights: Weights, *, keep: jax.Array | None = None) -> PyTree:
        """Return Jᵀw, one backward pass; tasks outside `keep` get no weight."""
        weights = weights if keep is None else jnp.where(keep, weights, 0)
        pull_back = isolated(self.pull_back, self.losses)
        return self.where.merge(pull_back(weights.astype(self.losses.dtype)), self.zeros)

    def push(self, direction: PyTree) -> jax.Array:
        """Return Jv, so that `push(combine(w))` is Gw: one forward pass, the transpose of the backward one.

        Args:
          direction: v, like the parameters.

        Returns:
          Shape `(R,)`.

        Raises:
          ValueError: If the backward pass is not linear, or a kernel.
        """
        leaves, _ = self.where.split(direction)
        return push_forward(self.pull_back, self.losses, leaves)

    def row_lengths(self) -> jax.Array:
        """Return ‖gᵢ‖, shape `(R,)`."""
        gram, exponent = self.scaled_gram()
        return scale_by_power_of_two(jnp.sqrt(jnp.diagonal(gram)), exponent)

    def report(self) -> PyTree:
        """Say of every leaf of the parameters whether it goes layer by layer, and why not."""
        return self.where.merge(list(self.plan.report), ["no gradient"] * len(self.zeros))

    def _beside_each_other(self):
        """Return the Gram matrix of everything but `plan.large`."""
        gradients, deltas = self.rows_and_deltas()
        parts = self.plan.parts(gradients, deltas, self.taps, self.own_taps)
        if not parts:
            return jnp.zeros((len(self.losses),) * 2, widest([self.losses])), jnp.int32(0)
        rows = [part.right for part in parts]
        dtype, split = widest(rows), split_axes(rows, self.losses)

        def gram_of(parts):
            return sum_of_pieces([part.gram().astype(dtype) for part in parts], split)

        def with_unit_rows():
            unit, exponents = to_unit(parts, split)
            return undo_unit(gram_of(unit), exponents)

        plain = gram_of(parts)
        none = jnp.zeros_like(plain[0, 0], dtype=jnp.int32)
        return rarely(out_of_range(jnp.diagonal(plain)), with_unit_rows, lambda: (plain, none))


def add_scaled(left: tuple[Gram, jax.Array], right: tuple[Gram, jax.Array]) -> tuple[Gram, jax.Array]:
    """Add Gram matrices in units of their own: 4ᵏG = 4ˡL + 4ʳR."""
    common = jnp.maximum(left[1], right[1])
    dtype = jnp.promote_types(left[0].dtype, right[0].dtype)
    terms = [scale_by_power_of_two(gram.astype(dtype), 2 * (exponent - common)) for gram, exponent in (left, right)]
    return terms[0] + terms[1], common


def linearize(
    losses_fn: Callable[..., Any],
    params: PyTree,
    *args: Any,
    has_aux: bool = False,
    chunk_size: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[Any, Structured]:
    """Evaluate the losses of all tasks and hold their Jacobian layer by layer.

    Where a parameter W enters a product z = aW, a lookup z = W[a] or a convolution, and nothing else, the Gram
    matrix follows from the gradients at z: T backward passes through activations, and no gradient of W. Found in
    the jaxpr of the losses, through rearrangements and casts, inside `jax.jit`, `jax.vmap`, `jax.checkpoint`
    and `lax.scan`. Leaves that are used in another way (biases, scales, whatever is not recognised) get their
    rows of J; `jac.report()` says which and why. Meant for `jax.jit`, which drops what is not asked for.

    Gᵢⱼ = Σ ⟨aᵀδᵢ, aᵀδⱼ⟩ = Σ ⟨aaᵀ, δᵢδⱼᵀ⟩,   δᵢ = ∂Lᵢ/∂z

    Args:
      losses_fn: `losses_fn(params, *args)` returning losses of shape `(T,)`, or a tuple, list or dict of T
        scalars; with `has_aux`, a pair of these and anything.
      params: Any pytree; integer leaves carry no gradient and get zeros.
      *args: Handed to `losses_fn`.
      has_aux: Whether `losses_fn` returns auxiliary data too.
      chunk_size: Number of tasks per backward pass, all at once for None. The gradients at the outputs of
        layers are kept for all tasks; rows of large leaves that are no layers, for `2·chunk_size`.
      axis_name: As in `matrix_free.linearize`. On a mesh with manual or explicit axes every leaf gets its rows.

    Returns:
      `(losses, jac)`, or `((losses, aux), jac)`: losses `(T,)`, and J with `jac.gram()`, `jac.combine(w)`,
      `jac.push(v)`, `jac.row_lengths()` and `jac.report()`.

    Raises:
      ValueError: If `chunk_size` is not positive, or as `matrix_free.linearize` says of the losses.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> params = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
      >>> def losses_fn(params, x):
      ...     return jnp.sum(x @ params["kernel"] + params["bias"], axis=0)
      >>> losses, jac = mtl.jacobians.structured.linearize(losses_fn, params, jnp.array([[1.0, 2.0], [3.0, 4.0]]))
      >>> jac.gram()
      Array([[56.,  0.],
             [ 0., 56.]], dtype=float32)
      >>> jac.report()
      {'bias': 'row by row: enters add', 'kernel': 'layer by layer: 1 × dot_general'}

      The Gram matrix of a table comes from the rows that are looked up, but u is as large as the table. Of a million
      rows make those of the batch, each once, the leaf, and put them back; moments of an optimiser go the same way.

      >>> table, numbers = jnp.zeros((1000, 2)), jnp.array([3, 7, 3])
      >>> touched, places = jnp.unique(numbers, return_inverse=True, size=3, fill_value=1000)
      >>> rows = table.at[touched].get(mode="fill", fill_value=0)
      >>> losses, jac = mtl.jacobians.structured.linearize(lambda rows: jnp.sum(rows[places], axis=0), rows)
      >>> jac.gram()[0, 0], table.at[touched].add(-0.5 * jac.combine(jnp.ones(2)), mode="drop")[3]
      (Array(5., dtype=float32), Array([-1., -1.], dtype=float32))

    References:
      Quinton & Rey, arXiv 2406.16232, section 6, for the Gram matrix without J; Goodfellow, arXiv 1510.01799, for
      the lengths of its rows.
    """
    check_chunk_size(chunk_size)
    where = trainable(params)
    leaves, others = where.split(params)
    function = loss_vector(losses_fn, where, others, has_aux)

    def averaged(leaves):
        losses, aux = function(leaves, *args)
        return average_losses(losses, leaves, axis_name), aux

    traced = trace(averaged, leaves)
    plan = make_plan(traced.closed, len(leaves), large_rows=chunk_size is None)
    uses = nested(plan.uses, plan.uses)

    def probed(leaves, probes):
        results, taps = evaluate(traced.closed.jaxpr, traced.closed.consts, leaves, uses, probes)
        losses, aux = traced.outputs(results)
        return losses, (aux, taps)

    probes = nested(plan.uses, list(map(zero_probe, plan.uses)))
    losses, pull_back, (aux, taps) = jax.vjp(probed, leaves, probes, has_aux=True)
    jac = Structured(
        pull_back=Partial(_pull_leaves, pull_back),
        rows_and_deltas=Partial(partial(_rows_and_deltas, plan.rows, chunk_size), pull_back, losses),
        row=Partial(partial(_row, plan.large), pull_back, losses),
        taps=taps,
        losses=losses,
        zeros=where.zeros(others),
        where=where,
        plan=plan,
        own_taps=False,
        chunk_size=chunk_size,
    )
    return ((losses, aux) if has_aux else losses), jac


def _pull_leaves(pull_back, seed):
    return pull_back(seed)[0]


def _rows_and_deltas(rows, chunk_size, pull_back, losses):
    """Pull every task back to the outputs of layers, and to the leaves whose rows are formed beside them."""
    pull_back = isolated(pull_back, losses)

    def pull(seed):
        gradient, deltas = pull_back(seed)
        return [gradient[leaf] for leaf in rows], deltas

    rows, deltas = map_in_chunks(pull, jnp.diag(jnp.ones_like(losses)), chunk_size)
    return rows, deltas


def _row(large, pull_back, losses, number):
    gradient = isolated(pull_back, losses)(jnp.diag(jnp.ones_like(losses))[number])[0]
    return [gradient[leaf] for leaf in large]
