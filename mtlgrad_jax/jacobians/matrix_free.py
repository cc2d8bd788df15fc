"""J held as a linear map: one gradient in memory at a time, whatever the number of tasks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.leaves import cast_like, widest
from mtlgrad_jax.ground.members import rarely
from mtlgrad_jax.ground.meshes import average_losses, split_axes
from mtlgrad_jax.ground.ranges import scale_by_power_of_two, undo_scale
from mtlgrad_jax.ground.rows import inner_products
from mtlgrad_jax.jacobians._gram_in_blocks import gram_in_blocks
from mtlgrad_jax.jacobians._isolation import isolated
from mtlgrad_jax.jacobians._losses import Trainable, check_chunk_size, loss_vector, map_in_chunks, trainable
from mtlgrad_jax.jacobians._scaled_gram import out_of_range, scaled_gram_of
from mtlgrad_jax.jacobians._unit_rows import to_unit, undo_unit
from mtlgrad_jax.typing import Gram, PyTree, Weights

MODES = ("forward", "reverse", "rows")


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("pull_back", "losses", "zeros"),
    meta_fields=("where", "mode", "chunk_size"),
)
@dataclass(frozen=True)
class MatrixFree:
    """The linearised losses behind the interface of `typing.Jacobian`, made by `linearize`.

    A pytree: it may leave one `jax.jit` and enter another. It holds what the forward pass keeps for the
    backward pass, and no gradient.
    """

    pull_back: Callable[[jax.Array], tuple[list[jax.Array]]]  # s ↦ Jᵀs, (T,) -> trainable leaves
    losses: jax.Array  # (T,)
    zeros: list[jax.Array | None]  # the update of the leaves that have no gradient
    where: Trainable
    mode: str
    chunk_size: int | None

    @property
    def num_tasks(self) -> int:
        """T."""
        return self.losses.shape[0]

    def gram(self) -> Gram:
        """Return JJᵀ."""
        return undo_scale(*self.scaled_gram())

    def scaled_gram(self) -> tuple[Gram, jax.Array]:
        """Return the Gram matrix of 2⁻ᵏJ and k, as `stacked.scaled_gram` does.

        Where squares leave the range, each gradient is brought to unit size by its own power of two before it
        meets another, so that the products stay in range inside the network too.
        """
        if self.mode == "forward":
            return gram_by_sweeps(lambda seed: self.pull_back(seed)[0], self.losses, self.chunk_size)
        seeds, pull_back = one_hot(self.losses), isolated(self.pull_back, self.losses)
        if self.mode == "rows":
            rows = map_in_chunks(lambda seed: pull_back(seed)[0], seeds, self.chunk_size)
            return scaled_gram_of(rows, split_axes(rows, self.losses))
        return gram_in_blocks(lambda task: pull_back(seeds[task])[0], self.losses, self.chunk_size)

    def combine(self, weights: Weights, *, keep: jax.Array | None = None) -> PyTree:
        """Return Jᵀw, one backward pass; tasks outside `keep` get no weight."""
        weights = weights if keep is None else jnp.where(keep, weights, 0)
        return self.where.merge(self._pull(weights.astype(self.losses.dtype)), self.zeros)

    def push(self, direction: PyTree) -> jax.Array:
        """Return Jv: one forward sweep, or with `mode="reverse"` one backward pass for every task."""
        direction, _ = self.where.split(direction)
        if self.mode == "forward":
            return push_forward(lambda seed: self.pull_back(seed)[0], self.losses, direction)

        def product(seed):
            row = self._pull(seed)
            one_row = jax.tree.map(lambda leaf: leaf[None], row)
            return inner_products(one_row, cast_like(direction, row), axis_name=split_axes(row, self.losses))[0]

        return map_in_chunks(product, one_hot(self.losses), self.chunk_size)

    def _pull(self, seed):
        return isolated(self.pull_back, self.losses)(seed)[0]


def linearize(
    losses_fn: Callable[..., Any],
    params: PyTree,
    *args: Any,
    has_aux: bool = False,
    mode: str = "forward",
    chunk_size: int | None = 1,
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[Any, MatrixFree]:
    """Evaluate the losses of all tasks and hold their Jacobian as a linear map.

    For a network whose T gradients do not fit into memory. The losses must come from one forward pass: tasks
    with batches of their own would cost T² sweeps (use `separate_value_and_grad`).

    Gⱼ = J(Jᵀeⱼ),   u = Jᵀw

    Args:
      losses_fn: `losses_fn(params, *args)` returning losses of shape `(T,)`, or a tuple, list or dict of T
        scalars; with `has_aux`, a pair of these and anything. `jax.checkpoint` inside it keeps its effect.
      params: Any pytree; integer leaves carry no gradient and get zeros.
      *args: Handed to `losses_fn`.
      has_aux: Whether `losses_fn` returns auxiliary data too.
      mode: How `gram()` works. `"forward"`: for each task one backward sweep, and one forward sweep that is
        the transpose of the backward one, so that a `jax.custom_vjp` written in linear JAX operations is no
        obstacle. `"reverse"`: backward sweeps only, T²/(2·chunk_size) of them, for backward rules that cannot
        be transposed (kernels, rules that clip), and for bfloat16 networks, whose forward sweeps round as
        they do. `"rows"`: T backward sweeps, whose gradients are all held while G is computed, as a stack holds them.
      chunk_size: Number of tasks per sweep: 1 for the least memory, None for all at once. `"forward"` holds
        `chunk_size` gradients, `"reverse"` twice as many.
      axis_name: Mesh axes over which the batch is split inside `shard_map`; the losses are averaged over them.
        Parameters may be split too, without being named. `()` treats each device on its own.

    Returns:
      `(losses, jac)`, or `((losses, aux), jac)`: losses `(T,)`, and J with `jac.gram()`, `jac.combine(w)` and
      `jac.push(v)`. G is symmetric; its error against G from stacked gradients is that of the network's own
      sums. What is not finite in one task's own computation stays in its row and column of G, and out of
      `combine(w)` where its weight is zero; the limits are those of `task_value_and_grad`.

    Raises:
      ValueError: If `mode` or `chunk_size` is unknown, the losses are not one scalar per task or differ over a
        mesh axis that `axis_name` does not name, or, in `gram()`, the backward pass cannot be transposed.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> def losses_fn(params):
      ...     return jnp.sum((params - 1.0) ** 2), jnp.sum((params + 1.0) ** 2)
      >>> losses, jac = mtl.jacobians.matrix_free.linearize(losses_fn, jnp.array([1.0, 0.0]))
      >>> jac.gram()
      Array([[ 4., -4.],
             [-4., 20.]], dtype=float32)
      >>> jac.combine(mtl.weightings.mgda(jac.gram()))
      Array([ 1., -1.], dtype=float32)
    """
    if mode not in MODES:
        raise ValueError(f"expected mode to be one of {', '.join(MODES)}, got {mode!r}.")
    check_chunk_size(chunk_size)
    where = trainable(params)
    leaves, others = where.split(params)
    function = loss_vector(losses_fn, where, others, has_aux)

    def averaged(leaves):
        losses, aux = function(leaves, *args)
        return average_losses(losses, leaves, axis_name), aux

    losses, pull_back, aux = jax.vjp(averaged, leaves, has_aux=True)
    jac = MatrixFree(pull_back, losses, where.zeros(others), where, mode, chunk_size)
    return ((losses, aux) if has_aux else losses), jac


def gram_by_sweeps(
    pull_back: Callable[[jax.Array], list[jax.Array]], losses: jax.Array, chunk_size: int | None
) -> tuple[Gram, jax.Array]:
    """Compute JJᵀ from s ↦ Jᵀs alone: pull each task back, and push what comes forward by the transpose.

    Args:
      pull_back: Linear, from `(T,)` to a list of leaves.
      losses: Shape `(T,)`, of which only the type counts.
      chunk_size: As in `linearize`.

    Returns:
      G and k, as `stacked.scaled_gram`.
    """
    push = partial(push_forward, pull_back, losses)
    pull_back = isolated(pull_back, losses)
    gradient = jax.eval_shape(pull_back, losses)
    dtype = widest([*gradient, losses])

    def column_of_unit_rows(seed):
        gradient = pull_back(seed)
        unit, exponent = to_unit(gradient, dtype, split_axes(gradient, losses))
        return push(unit), exponent

    def with_unit_rows():
        columns, exponents = map_in_chunks(column_of_unit_rows, one_hot(losses), chunk_size)  # row j: ⟨gᵢ, 2⁻ᵏʲgⱼ⟩
        unit_gram = scale_by_power_of_two(columns, -exponents[None, :])
        return undo_unit((unit_gram + unit_gram.T) / 2, exponents)

    if any(jnp.finfo(leaf.dtype).maxexp < 100 for leaf in [*gradient, losses]):  # float16: the network leaves the range
        return with_unit_rows()
    columns = map_in_chunks(lambda seed: push(pull_back(seed)), one_hot(losses), chunk_size)
    lower = jnp.tril(columns)  # a bare transpose would become a second product, rounded otherwise
    plain = lower + jnp.tril(lower, -1).T
    none = jnp.zeros_like(plain[0, 0], dtype=jnp.int32)
    return rarely(out_of_range(jnp.diagonal(plain)), with_unit_rows, lambda: (plain, none))


def one_hot(losses: jax.Array) -> jax.Array:
    """Return the seed of every task, varying over mesh axes as the losses do."""
    return jnp.diag(jnp.ones_like(losses))


def push_forward(
    pull_back: Callable[[jax.Array], list[jax.Array]], losses: jax.Array, direction: list[jax.Array]
) -> jax.Array:
    """Return Jv by the transpose of s ↦ Jᵀs, or explain that it has none.

    Args:
      pull_back: Linear, from `(T,)` to a list of leaves.
      losses: Shape `(T,)`, of which only the type counts.
      direction: v, leaves like those of the gradient.

    Returns:
      Jv, shape `(T,)`, float32 or better.
    """
    gradient = jax.eval_shape(pull_back, losses)
    tangent = [jnp.conj(leaf) for leaf in cast_like(direction, gradient)]
    try:
        products = jax.linear_transpose(pull_back, losses)(tangent)[0]
    except Exception as error:
        raise ValueError(
            "expected a backward pass that JAX can transpose, got one that it cannot "
            f"(a custom_vjp that is a kernel or not linear: {type(error).__name__}); "
            'call matrix_free.linearize(..., mode="reverse"), which needs backward passes only.'
        ) from error
    return products.astype(widest([*gradient, losses]))
