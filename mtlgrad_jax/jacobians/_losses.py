"""The losses of all tasks as one vector-valued function of the trainable leaves."""

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.leaves import is_inexact, shapes
from mtlgrad_jax.typing import PyTree


class Trainable(NamedTuple):
    """Where the floating-point leaves of a tree stand; the rest carries no gradient."""

    treedef: Any  # a jax.tree_util.PyTreeDef, which type checkers do not see
    is_trainable: tuple[bool, ...]  # one per leaf
    is_filtered: bool = False  # in place of zeros the rest gets None, as `equinox.filter_grad` has it

    def split(self, tree: PyTree) -> tuple[list[jax.Array], list[Any]]:
        """Return the trainable leaves and the others."""
        marked = list(zip(jax.tree.leaves(tree), self.is_trainable, strict=True))
        return [leaf for leaf, train in marked if train], [leaf for leaf, train in marked if not train]

    def merge(self, trainable: list[Any], others: list[Any]) -> PyTree:
        """Undo `split`."""
        marked, rest = iter(trainable), iter(others)
        return self.treedef.unflatten([next(marked if train else rest) for train in self.is_trainable])

    def zeros(self, others: list[Any], *leading: int) -> list[jax.Array | None]:
        """Return what stands for the gradients of leaves that have none: None for what is no array."""
        return [
            None if self.is_filtered or not _is_array(leaf) else _zeros_like(leaf, (*leading, *jnp.shape(leaf)))
            for leaf in others
        ]


def places_of(tree: PyTree) -> Trainable:
    """Find the floating-point leaves of a tree, in an Equinox module the floating-point arrays."""
    leaves, treedef = jax.tree.flatten(tree)
    is_equinox = _contains_module_of("equinox", tree)
    marks = (_is_array(leaf) and is_inexact(leaf) and (not is_equinox or hasattr(leaf, "dtype")) for leaf in leaves)
    return Trainable(treedef, tuple(marks), is_equinox)


def trainable(params: PyTree) -> Trainable:
    """Find the floating-point leaves of the parameters, or explain that there are none."""
    if _contains_module_of("flax.nnx", params):
        raise ValueError(
            "expected parameters, got a Flax NNX module, whose other state (batch statistics, random streams) would be "
            "lost; graph, params, rest = nnx.split(model, nnx.Param, ...), pass params, build it = nnx.merge(graph, "
            "params, rest, copy=True) in losses_fn, return nnx.state(it, nnx.Not(nnx.Param)) as aux, with has_aux, "
            "and hand it to nnx.update(model, aux)."
        )
    where = places_of(params)
    if not any(where.is_trainable):
        found = shapes(jax.tree.map(lambda leaf: leaf if _is_array(leaf) else None, params))
        raise ValueError(f"expected parameters with floating-point leaves, got {found}; pass the parameters.")
    return where


def _is_array(leaf):
    return isinstance(leaf, int | float | complex) or (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))


def _zeros_like(leaf, shape):
    return jnp.zeros_like(leaf) if shape == jnp.shape(leaf) else jnp.zeros(shape, jnp.result_type(leaf))


def _contains_module_of(framework, tree):
    """Whether there is a module of a framework in the tree; one that is not imported has made none."""
    module = getattr(sys.modules.get(framework), "Module", None)
    if module is None:
        return False
    return any(
        isinstance(node, module) for node in jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, module))
    )


def loss_vector(losses_fn: Callable[..., Any], where: Trainable, others: list[jax.Array], has_aux: bool):
    """Turn the user's function of the parameters into a function of the trainable leaves.

    Args:
      losses_fn: `losses_fn(params, *args, **kwargs)`, as in `task_value_and_grad`.
      where: Which leaves are trainable.
      others: The leaves that are not.
      has_aux: Whether `losses_fn` returns auxiliary data too.

    Returns:
      A function returning losses of shape `(T,)` and the auxiliary data, None without.
    """

    def function(leaves, *args, **kwargs):
        result = losses_fn(where.merge(leaves, others), *args, **kwargs)
        losses, aux = result if has_aux else (result, None)
        return stack_losses(losses), aux

    return function


def stack_losses(losses: Any) -> jax.Array:
    """Return the losses of all tasks as one vector, a dict in the order in which it was written."""
    parts = list(losses.values()) if isinstance(losses, dict) else losses
    if isinstance(parts, list | tuple):
        found = [jnp.shape(part) for part in parts]
        if not parts or any(shape != () for shape in found):
            raise ValueError(f"expected one scalar loss per task, got shapes {found}; reduce each to a scalar.")
        return jnp.stack(parts)
    if jnp.ndim(parts) != 1 or jnp.shape(parts)[0] == 0:
        raise ValueError(
            f"expected losses of shape (T,), one scalar per task, got shape {jnp.shape(parts)}; "
            "return jnp.stack([loss_1, ..., loss_T]), or a tuple or dict of scalars."
        )
    return parts


def check_chunk_size(chunk_size: int | None, of: str = "task") -> None:
    """Raise unless the number of rows per sweep is a positive int or None."""
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"expected chunk_size of at least 1 {of} or None for all at once, got {chunk_size}.")


def map_in_chunks(function: Callable[[PyTree], PyTree], rows: PyTree, chunk_size: int | None) -> PyTree:
    """Map a function over the leading axis, `chunk_size` rows at a time, all at once for None."""
    num_rows = jax.tree.leaves(rows)[0].shape[0]
    if chunk_size is None or chunk_size >= num_rows:
        return jax.vmap(function)(rows)
    return lax.map(function, rows, batch_size=None if chunk_size == 1 else chunk_size)
