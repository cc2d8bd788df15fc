"""The leading axis of stacked gradients: its length, or what is wrong with it."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.leaves import is_inexact, shapes
from mtlgrad_jax.typing import PyTree

_WANTED = "expected stacked task gradients with leaves (T, *param_shape)"
_ADVICE = "stack one gradient per task along a new leading axis, as mtl.task_value_and_grad does"


def count_tasks(task_grads: PyTree, *, expected: int | None = None, params: PyTree | None = None) -> int:
    """Return the length T of the leading task axis, or explain what is wrong with it.

    Args:
      task_grads: Leaves `(T, *param_shape)`.
      expected: The T that the caller was told to expect.
      params: If given, every leaf must be `(T,) + param.shape`.

    Returns:
      The number T.

    Raises:
      ValueError: If there is no floating-point leaf, a leaf has no task axis, leaves disagree, T is not the
        expected one, or a leaf is not a stack of gradients of its parameter.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.jacobians.stacked.count_tasks({"w": jnp.ones((3, 2)), "b": jnp.ones(3)})
      3
    """
    leaves = [leaf for leaf in jax.tree.leaves(task_grads) if is_inexact(leaf)]
    if not leaves:
        raise ValueError(f"{_WANTED}, got a tree without floating-point leaves: {shapes(task_grads)}; {_ADVICE}.")
    pairs = _shapes_beside(task_grads, params)
    if pairs and all(shape == own for shape, own in pairs):
        raise ValueError(
            f"{_WANTED}, got the parameters' own shapes {shapes(task_grads)}; {_ADVICE}, put the aggregation first in "
            "optax.chain, and use mtl.accumulate in place of optax.MultiSteps."
        )
    lengths = {jnp.shape(leaf)[:1] for leaf in leaves}
    if len(lengths) > 1 or () in lengths:
        raise ValueError(f"{_WANTED} of one and the same T, got {shapes(task_grads)}; {_ADVICE}.")
    ((num_tasks,),) = lengths
    if num_tasks == 0:
        raise ValueError(f"{_WANTED} for at least one task, got {shapes(task_grads)}; {_ADVICE}.")
    for shape, own in pairs:
        if shape != (num_tasks, *own):
            hint = ", and put optax.flatten around what follows the aggregation" if _is_flattened(pairs) else ""
            raise ValueError(
                f"{_WANTED}, got {shape} for a parameter of shape {own} in {shapes(task_grads)}; {_ADVICE}{hint}."
            )
    if expected is not None and num_tasks != expected:
        raise ValueError(f"{_WANTED} for num_tasks={expected}, got T={num_tasks} in {shapes(task_grads)}; {_ADVICE}.")
    return num_tasks


def _shapes_beside(task_grads, params):
    """Return the shape of every floating-point leaf beside that of its parameter, or explain that it has none."""
    if params is None:
        return []
    own = dict(jax.tree_util.tree_leaves_with_path(params))
    found = {path: leaf for path, leaf in jax.tree_util.tree_leaves_with_path(task_grads) if is_inexact(leaf)}
    if strange := [jax.tree_util.keystr(path) or "array" for path in found if path not in own]:
        raise ValueError(
            f"{_WANTED} in a tree like the parameters {shapes(params)}, got {strange[0]} in {shapes(task_grads)}; "
            f"{_ADVICE}, or jax.tree.map(lambda *rows: jnp.stack(rows), *grads) of one gradient per task."
        )
    ends = {path for path, _ in jax.tree_util.tree_leaves_with_path(task_grads, is_leaf=_is_empty)}
    missing = [p for p, leaf in own.items() if is_inexact(leaf) and not any(p[:n] in ends for n in range(len(p) + 1))]
    if missing:
        raise ValueError(
            f"{_WANTED} in a tree like the parameters {shapes(params)}, got none for "
            f"{jax.tree_util.keystr(missing[0])} in {shapes(task_grads)}; {_ADVICE}, or leave None in its place."
        )
    return [(jnp.shape(leaf), jnp.shape(own[path])) for path, leaf in found.items()]


def _is_empty(node):
    """Whether a tree has no leaves, as None and what `optax.masked` leaves behind."""
    return not jax.tree.leaves(node)


def _is_flattened(pairs):
    """Whether T gradients and their parameters were each made one vector, as `optax.flatten` does."""
    if len(pairs) != 1:
        return False
    ((shape, own),) = pairs
    return len(shape) == len(own) == 1 and own[0] > 0 and shape[0] % own[0] == 0
