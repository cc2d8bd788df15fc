"""A group of parameters that some of the tasks use."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.rows import check_update
from mtlgrad_jax.jacobians import stacked


def for_tasks(transform: optax.GradientTransformation, tasks: Sequence[int]) -> optax.GradientTransformationExtraArgs:
    """Aggregate the gradients of these tasks only, as if there were no others.

    For a group of `optax.partition` that not all tasks use: the gradient of the others is zero there, which reads as
    a task that is stationary, so that MGDA, which may not hurt it, never moves the group.

    Args:
      transform: Takes stacked task gradients, for instance `mtl.mgda()`.
      tasks: Which rows concern it, counted from zero.

    Returns:
      An Optax transformation of stacked task gradients that hands `present` to `transform`: these tasks, of those
      that are `present` if the caller says so too. Any number of groups may be partitioned; each has its own.

    Raises:
      ValueError: If no task is named; in `update`, if there is no such task, or the task axis is missing.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, rows = mtl.for_tasks(mtl.mgda(), (0, 1)), jnp.array([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
      >>> tx.update(rows, tx.init(jnp.zeros(2)))[0].round(4)
      Array([1., 1.], dtype=float32)
      >>> mtl.mgda().update(rows, tx.init(jnp.zeros(2)))[0]
      Array([0., 0.], dtype=float32)
    """
    if not tasks or min(tasks) < 0:
        raise ValueError(f"expected the tasks that concern a group, counted from zero, got {tasks!r}.")
    transform = optax.with_extra_args_support(transform)

    def update(updates, state, params=None, *, present=None, **extra_args):
        num_tasks = stacked.count_tasks(updates, params=params)
        if max(tasks) >= num_tasks:
            raise ValueError(f"expected tasks below T={num_tasks}, got {tuple(tasks)}.")
        concerned = jax.nn.one_hot(jnp.asarray(tasks), num_tasks, dtype=bool).any(axis=0)
        present = concerned if present is None else concerned & jnp.asarray(present, bool)
        taken, state = transform.update(updates, state, params, present=present, **extra_args)
        check_update(taken, updates)
        return taken, state

    return optax.GradientTransformationExtraArgs(transform.init, update)
