"""Methods that need the gradients of two independent batches."""

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.rows import cross_products
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.transforms._aggregate import Aggregator, build
from mtlgrad_jax.typing import PyTree, StatefulWeighting


def build_double_sampling(
    weighting: StatefulWeighting,
    num_tasks: int | None,
    *,
    axis_name: str | tuple[str, ...] | None,
    nonfinite: str,
) -> optax.GradientTransformationExtraArgs:
    """Build a transformation whose weights come from the cross Gram matrix of two batches.

    u = ½(J₁ + J₂)ᵀw, or J₃ᵀw with a third batch;   w = weighting(J₁J₂ᵀ)

    Args:
      weighting: Takes `cross_gram`.
      num_tasks: As in `aggregate`.
      axis_name: As in `aggregate`.
      nonfinite: As in `aggregate`.

    Returns:
      The transformation; its `update` takes `second_task_grads` and, optionally, `third_task_grads`, stacked
      gradients at the same parameters on batches drawn independently of the first.
    """
    inner = build(weighting, num_tasks, axis_name=axis_name, nonfinite=nonfinite)

    def update(updates, state, params=None, *, second_task_grads=None, third_task_grads=None, **extra_args):
        if second_task_grads is None:
            raise ValueError(
                "expected the stacked gradients of a second, independent batch at the same parameters, got none; "
                "pass tx.update(task_grads, state, params, second_task_grads=second_task_grads)."
            )
        stacked.count_tasks(updates, params=params)
        rows = _mean(updates, second_task_grads) if third_task_grads is None else third_task_grads
        cross_gram = _cross_gram(updates, second_task_grads, axis_name)
        return inner.update(rows, state, params, cross_gram=cross_gram, **extra_args)

    return Aggregator(inner.init, update)


def _mean(first: PyTree, second: PyTree) -> PyTree:
    def middle(left, right):
        return (left / 2 + right / 2).astype(left.dtype) if jnp.issubdtype(left.dtype, jnp.inexact) else left

    return jax.tree.map(middle, first, second)


def _cross_gram(first, second, axis_name):
    """Return J₁J₂ᵀ."""
    if stacked.count_tasks(first) != stacked.count_tasks(second):
        raise ValueError(
            f"expected second_task_grads for the same T={stacked.count_tasks(first)} tasks as task_grads, "
            f"got T={stacked.count_tasks(second)}."
        )
    return cross_products(first, second, axis_name=axis_name)
