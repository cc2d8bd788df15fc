"""Which parameters several tasks share, and which belong to one: the zeros of J that no value can change."""

from collections.abc import Callable
from typing import Any

import jax

from mtlgrad_jax.jacobians._losses import loss_vector, trainable
from mtlgrad_jax.typing import PyTree


def shared_leaves(
    losses_fn: Callable[..., Any], params: PyTree, *args: Any, has_aux: bool = False, **kwargs: Any
) -> PyTree:
    """Tell which parameters are shared by several tasks, as a mask for `trunk_and_heads`.

    It is read off the program of the backward pass, nothing is computed. A leaf is not shared if no two tasks meet in
    one of its entries: the layers of a head, but also the matrix of a last layer whose every column is one task's
    output. Where a program is not understood (tasks that go through one `lax.scan` together) a leaf counts as shared,
    which is always safe: it is then aggregated as without a mask.

    Args:
      losses_fn: As in `task_value_and_grad`.
      params: Any pytree of arrays, or of `jax.ShapeDtypeStruct`.
      *args: Handed to `losses_fn`.
      has_aux: Whether `losses_fn` returns auxiliary data too.
      **kwargs: Handed to `losses_fn`.

    Returns:
      A tree like the gradients, of booleans: True where several tasks share a leaf, or where there is one task only;
      False for heads and for what no task uses.

    Raises:
      ValueError: As in `task_value_and_grad`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> def losses_fn(params, x):
      ...     hidden = jnp.tanh(x @ params["trunk"])
      ...     return jnp.sum(hidden @ params["left"]), jnp.sum((hidden @ params["right"]) ** 2)
      >>> params = {"trunk": jnp.ones((4, 3)), "left": jnp.ones(3), "right": jnp.ones(3)}
      >>> mtl.shared_leaves(losses_fn, params, jnp.ones((8, 4)))
      {'left': False, 'right': False, 'trunk': True}
    """
    from mtlgrad_jax.jacobians._ownership import MIXED, Owner, Owners, owners_of_results  # with all of jax.extend

    where = trainable(params)
    leaves, others = where.split(params)
    function = loss_vector(losses_fn, where, others, has_aux)
    call = lambda leaves: function(leaves, *args, **kwargs)[0]
    losses = jax.eval_shape(call, leaves)

    def pull_back(leaves, seed):
        return jax.vjp(call, leaves)[1](seed)[0]

    program = jax.make_jaxpr(pull_back)(leaves, losses).jaxpr
    num_tasks = losses.shape[0]
    seeds: Owners = [Owner(0 if num_tasks > 1 else None, tuple(range(num_tasks)))]
    owners = owners_of_results(program, [None] * (len(program.invars) - 1) + seeds)
    is_shared = [num_tasks == 1 or owner == MIXED for owner in owners]
    rest = [None if zero is None else True for zero in jax.eval_shape(lambda: where.zeros(others))]
    return where.merge(is_shared, rest)
