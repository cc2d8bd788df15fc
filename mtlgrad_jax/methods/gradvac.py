"""Gradient vaccine: raise the cosine between two tasks to what it has been on average."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mtlgrad_jax.ground.grams import check_memory, dot, reciprocal, row_norms
from mtlgrad_jax.ground.keys import key_sequence
from mtlgrad_jax.ground.presence import leave_out, only
from mtlgrad_jax.methods.pcgrad import random_orders
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting

CLAIMS = Claims("cosines raised to their usual value", keeps="ZF", needs="SK", sums_to="T", costs="T² projections")


class GradVacState(NamedTuple):
    """What `gradvac` remembers."""

    targets: jax.Array  # (T, T), running mean of the cosine of gᵢ′ and gⱼ
    key: jax.Array  # uint32 key data


def weighting(*, beta: float = 0.5, key: jax.Array | int = 0) -> StatefulWeighting:
    """Weigh tasks so that every pair agrees at least as much as it has on average.

    PCGrad removes conflicts, that is cosines below zero; this raises every cosine that is below its own
    running mean. The first step, with targets of zero, is PCGrad's.

    gᵢ′ ← gᵢ′ + ‖gᵢ′‖(φ̂√(1−φ²) − φ√(1−φ̂²)) / (‖gⱼ‖√(1−φ̂²)) · gⱼ if φ = cos(gᵢ′,gⱼ) < φ̂,   φ̂ ← (1−β)φ̂ + βφ

    Args:
      beta: β, from 0 to 1; its authors' experiments use .01.
      key: An int seed or a `jax.random.key`, for the order in which pairs are visited.

    Returns:
      A `typing.StatefulWeighting`. Its weights sum to T when all tasks agree, as do PCGrad's. A zero gradient
      has no cosine: it changes nothing and its targets stay. Raising a cosine to one would take an infinite
      weight, so a target within √ε of ±1 (what a float resolves of a cosine) counts as that.

    Raises:
      ValueError: If `beta` is not between 0 and 1, or `key` is not a key.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.gradvac(key=0)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> weights, state = weighting.update(task_grads @ task_grads.T, weighting.init(2))
      >>> weights
      Array([2.2222223, 1.5789473], dtype=float32)

    References:
      Wang et al., ICLR 2021, algorithm 1, on all parameters at once. Common re-implementations update the
      target only where it was missed, so that it can never rise; the paper updates it always.
    """
    if isinstance(beta, int | float) and not 0 <= beta <= 1:
        raise ValueError(f"expected beta between 0 and 1, got {beta}.")
    keys = key_sequence(key)

    def init(num_tasks):
        return GradVacState(jnp.zeros((num_tasks, num_tasks)), keys.init())

    def update(gram, state, *, present=None):
        check_memory(state.targets, gram)
        num_tasks, gram = gram.shape[0], leave_out(gram, present)
        drawn, data = keys.draw(state.key)
        orders = random_orders(drawn, num_tasks)
        lengths = row_norms(gram)
        most = 1 - jnp.finfo(gram.dtype).eps ** 0.5

        def visit(step, carry):
            coefficients, targets = carry
            pair = jax.nn.one_hot(orders[:, step], num_tasks, dtype=gram.dtype)
            products = dot(coefficients, gram)
            length = _root(jnp.sum(products * coefficients, axis=1))
            other = dot(pair, lengths)
            cosine = jnp.clip(jnp.sum(products * pair, axis=1) * reciprocal(length) * reciprocal(other), -1, 1)
            target = jnp.sum(targets * pair, axis=1)
            goal = jnp.clip(target, -most, most)
            visited = (length > 0) & (other > 0) & (orders[:, step] != jnp.arange(num_tasks))
            goal_sine = _sine(goal)
            share = length * reciprocal(other) * (goal * _sine(cosine) - cosine * goal_sine) / goal_sine
            coefficients = coefficients + jnp.where(visited & (cosine < goal), share, 0)[:, None] * pair
            change = jnp.where(visited, jnp.asarray(beta, gram.dtype) * (cosine - target), 0)
            return coefficients, targets + change[:, None] * pair

        targets = state.targets.astype(gram.dtype) + jnp.zeros_like(gram)
        start = jnp.eye(num_tasks, dtype=gram.dtype) + jnp.zeros_like(gram)
        coefficients, targets = lax.fori_loop(0, num_tasks, visit, (start, targets))
        return only(jnp.sum(coefficients, axis=0), present), GradVacState(targets.astype(state.targets.dtype), data)

    return StatefulWeighting(init, update)


def _sine(cosine):
    return _root((1 - cosine) * (1 + cosine))


def _root(square):
    """Return the root, and zero with a derivative of zero where there is none."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def gradvac(
    num_tasks: int | None = None,
    *,
    beta: float = 0.5,
    key: jax.Array | int = 0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the sum of the task gradients, each bent until it agrees with the others as much as on average.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      beta: Share of the new cosine in the running mean.
      key: An int seed or a `jax.random.key`; it lives in the state and every step draws anew.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients; its first step is that of `pcgrad`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.gradvac(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)))
      >>> state.weights
      Array([2.2222223, 1.5789473], dtype=float32)
    """
    return aggregate(weighting(beta=beta, key=key), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
