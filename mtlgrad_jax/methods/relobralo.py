"""ReLoBRaLo: weight where a loss has fallen least, since the last step or, now and then, since the first."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_memory
from mtlgrad_jax.ground.keys import key_sequence
from mtlgrad_jax.ground.logarithms import softmax_where
from mtlgrad_jax.ground.presence import everyone, number, only
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting

CLAIMS = Claims("weight where the loss fell least", keeps="PLZF", needs="LSK", sums_to="T", costs="–")


class RelobraloState(NamedTuple):
    """What `relobralo` remembers."""

    weights: jax.Array  # (T,)
    last: jax.Array  # (T,), losses of the last step of each task
    initial: jax.Array  # (T,), the first loss of each task that was positive and finite, zero before
    num_steps: jax.Array  # (T,) int32, steps in which a task took part, at most two
    key: jax.Array  # uint32 key data


def weighting(
    *, alpha: float = 0.999, temperature: float = 0.1, rho: float = 0.99, key: jax.Array | int = 0
) -> StatefulWeighting:
    """Weigh tasks by how little their losses have fallen, averaged over the steps and over two memories.

    b(t,t′) = T softmax(Lᵢ(t)/(τ Lᵢ(t′))),   w(t) = α(ρw(t−1) + (1−ρ)b(t,0)) + (1−α)b(t,t−1),   ρ is 0 or 1 at random

    Args:
      alpha: α, from 0 to 1, how slowly the weights follow.
      temperature: τ; large for nearly equal weights.
      rho: The probability that ρ is one; at zero the weights look back to the first step and at one never.
      key: An int seed or a `jax.random.key`; it lives in the state and every step draws anew.

    Returns:
      A `typing.StatefulWeighting` that needs `losses`. The weights sum to T, whether tasks agree or not. They are one
      at first, and b(t,t−1) in the second step, as in the authors' code. Where one of the losses that are compared is
      not positive and finite, their ratio counts as one. An absent task has weight zero, and its memory rests.

    Raises:
      ValueError: If `key` is not a key.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.relobralo(temperature=1.0)
      >>> state = weighting.init(2)
      >>> for losses in ([4.0, 4.0], [4.0, 2.0]):
      ...     weights, state = weighting.update(jnp.eye(2), state, losses=jnp.array(losses))
      >>> [f"{weight:.4f}" for weight in weights]
      ['1.2449', '0.7551']

    References:
      Bischof & Kraus, arXiv 2110.09813, (12)–(14), for physics-informed networks; defaults of the loss class that the
      authors published.
    """
    keys = key_sequence(key)

    def init(num_tasks):
        zeros = jnp.zeros(num_tasks)
        return RelobraloState(jnp.ones(num_tasks), zeros, jnp.copy(zeros), jnp.zeros(num_tasks, jnp.int32), keys.init())

    def update(gram, state, *, losses=None, present=None):
        check_memory(state.weights, gram)
        losses = check_losses(losses, gram, "relobralo").astype(state.last.dtype)
        present, (drawn, data) = everyone(present, losses), keys.draw(state.key)
        initial = jnp.where(present & ~_positive(state.initial) & _positive(losses), losses, state.initial)
        kept = jnp.where(state.num_steps == 0, 1.0, jnp.where(state.num_steps == 1, 0.0, alpha)).astype(losses.dtype)
        stays = jax.random.bernoulli(drawn, rho) | (state.num_steps < 2)
        history = jnp.where(stays, state.weights, _balance(losses, initial, temperature, present))
        moved = kept * history + (1 - kept) * _balance(losses, state.last, temperature, present)
        state = RelobraloState(
            weights=jnp.where(present, moved, state.weights),
            last=jnp.where(present, losses, state.last),
            initial=initial,
            num_steps=jnp.where(present, jnp.minimum(state.num_steps + 1, 2), state.num_steps),
            key=data,
        )
        return only(moved, present).astype(gram.dtype), state

    return StatefulWeighting(init, update, reads_gram=False)


def _positive(losses):
    return (losses >= jnp.finfo(losses.dtype).tiny) & jnp.isfinite(losses)  # what divides must not be flushed to zero


def _balance(losses, before, temperature, present):
    """Return b of losses against those before."""
    known = present & _positive(losses) & _positive(before)
    limit = jnp.finfo(losses.dtype).max / 4  # differences of two stay finite
    ratio = jnp.where(known, losses, 1) / jnp.where(known, before, 1)
    logits = jnp.minimum(jnp.minimum(ratio, limit**0.5) / jnp.asarray(temperature, losses.dtype), limit)
    return number(present, losses.dtype) * softmax_where(logits, present)


def relobralo(
    num_tasks: int | None = None,
    *,
    alpha: float = 0.999,
    temperature: float = 0.1,
    rho: float = 0.99,
    key: jax.Array | int = 0,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients, with more weight where the loss fell least.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      alpha: How slowly the weights follow, from 0 to 1.
      temperature: Large for nearly equal weights.
      rho: The probability of not looking back to the first step.
      key: An int seed or a `jax.random.key`; it lives in the state and every step draws anew.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.relobralo(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([1., 1.], dtype=float32)
    """
    method = weighting(alpha=alpha, temperature=temperature, rho=rho, key=key)
    return aggregate(method, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
