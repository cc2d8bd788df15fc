"""Tasks that share parameters and nothing else: a loss function and a batch for each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtlgrad_jax.jacobians._losses import trainable
from mtlgrad_jax.jacobians.stacked import Stacked
from mtlgrad_jax.typing import PyTree


def linearize(
    loss_fns: Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]],
    params: PyTree,
    batches: Any,
    *,
    has_aux: bool = False,
) -> tuple[Any, Stacked]:
    """Evaluate the losses of all tasks on their own batches and hold their gradients, see `separate_value_and_grad`.

    Args:
      loss_fns: As in `separate_value_and_grad`, in a list or a dict.
      params: Any pytree.
      batches: In the same container as the functions.
      has_aux: As in `separate_value_and_grad`.

    Returns:
      `(losses, jac)`, or `((losses, aux), jac)`, with `jac.gram()` and `jac.combine(w)`.

    Raises:
      ValueError: As `separate_value_and_grad`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> loss_fns = [lambda params, x: jnp.sum(params * x), lambda params, x: jnp.sum((params - x) ** 2)]
      >>> losses, jac = mtl.jacobians.separate.linearize(loss_fns, jnp.ones(2), [jnp.ones(2), jnp.zeros(2)])
      >>> jac.gram()
      Array([[2., 4.],
             [4., 8.]], dtype=float32)
    """
    value, task_grads = separate_value_and_grad(loss_fns, has_aux=has_aux)(params, batches)
    return value, Stacked(task_grads)


def separate_value_and_grad(
    loss_fns: Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]], *, has_aux: bool = False
) -> Callable[..., Any]:
    """Turn one loss function per task into a function that returns their losses and stacked gradients.

    For tasks with data loaders of their own. What `task_value_and_grad` does for losses of one forward pass;
    here each task has its forward and backward pass.

    gᵢ = ∇Lᵢ(θ, batchᵢ)

    Args:
      loss_fns: T functions `loss_fn(params, batch)` returning a scalar, in a list, or in a dict by name (in
        the order in which it was written). With `has_aux` each returns a pair of it and anything. A task
        need not use every parameter: what it does not use gets a zero.
      has_aux: Whether the functions return auxiliary data too. Batch statistics are as many as tasks then, each a step
        from the same old ones; keep their mean, `jax.tree.map(lambda *each: sum(each) / len(each), *aux.values())`.

    Returns:
      A function of `(params, batches)`, the batches in the same container as the functions, returning
      `(losses, task_grads)`, or `((losses, aux), task_grads)`: losses `(T,)`, a tree like `params` with leaves
      `(T, *param_shape)`, aux in a list, or in a dict by name.

    Raises:
      ValueError: If there is no function, the batches are not one per function, or a loss is not a scalar.

    Example:
      Two tasks share `shared` and have a head each: MGDA on what they share, and each head's own gradient.

      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> def loss_of(name):
      ...     return lambda params, x: jnp.sum((params["shared"] * x - params[name]) ** 2)
      >>> params = {"shared": jnp.ones(2), "a": jnp.zeros(2), "b": jnp.ones(2)}
      >>> task_fn = mtl.separate_value_and_grad({"a": loss_of("a"), "b": loss_of("b")})
      >>> batches = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([1.0, 2.0])}
      >>> losses, task_grads = task_fn(params, batches)
      >>> task_grads["a"]
      Array([[-2., -0.],
             [ 0.,  0.]], dtype=float32)
      >>> tx = mtl.trunk_and_heads(mtl.mgda(), {"shared": True, "a": False, "b": False})
      >>> updates, _ = tx.update(task_grads, tx.init(params), params)
      >>> updates["a"].shape, updates["shared"].shape
      ((2,), (2,))
    """
    named = isinstance(loss_fns, Mapping)
    functions = list(loss_fns.values()) if named else list(loss_fns)
    if not functions:
        raise ValueError("expected at least one loss function, got none; pass one per task.")

    def value_and_grad(params, batches):
        if named:
            _check_batches(set(batches) == set(loss_fns), list(loss_fns), list(batches))
            batches = {name: batches[name] for name in loss_fns}.values()
        _check_batches(len(batches) == len(functions), len(functions), len(batches))
        where = trainable(params)
        leaves, others = where.split(params)
        losses, aux, rows = [], [], []
        for function, batch in zip(functions, batches, strict=True):
            loss, pull_back, extra = jax.vjp(
                _scalar_loss(function, where, others, batch, has_aux), leaves, has_aux=True
            )
            losses.append(loss)
            aux.append(extra)
            rows.append(pull_back(jnp.ones_like(loss))[0])
        stacked = [jnp.stack(column) for column in zip(*rows, strict=True)]
        zeros = where.zeros(others, len(functions))
        aux = dict(zip(loss_fns, aux, strict=True)) if named else aux
        return ((jnp.stack(losses), aux) if has_aux else jnp.stack(losses)), where.merge(stacked, zeros)

    return value_and_grad


def _scalar_loss(function, where, others, batch, has_aux):
    def loss(leaves):
        result = function(where.merge(leaves, others), batch)
        value, aux = result if has_aux else (result, None)
        if jnp.shape(value) != ():
            raise ValueError(f"expected a scalar loss from each function, got shape {jnp.shape(value)}; reduce it.")
        return value, aux

    return loss


def _check_batches(match, wanted, got):
    if not match:
        raise ValueError(
            f"expected one batch for each of the tasks {wanted}, got {got}; pass them in the same container."
        )
