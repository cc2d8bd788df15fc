"""The simplex without constraints: weights are a softmax, and an Optax optimiser descends on its logits."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mtlgrad_jax.ground.grams import check_gram, dot, normalize_rows, reciprocal
from mtlgrad_jax.solvers.certificates import min_norm_gap
from mtlgrad_jax.solvers.min_norm import check_num_simplex
from mtlgrad_jax.typing import Gram, Solution

LEARNING_RATE = 0.3  # of logits, hence without units


class _Iterate(NamedTuple):
    logits: optax.Params  # (T,)
    state: optax.OptState
    gap: jax.Array  # ()
    num_steps: jax.Array  # () int32


@partial(jax.jit, static_argnames=("num_simplex", "optimizer"))
def softmax_descent(
    gram: Gram,
    num_simplex: int | None = None,
    *,
    optimizer: optax.GradientTransformation | None = None,
    max_steps: int = 1000,
    tolerance: float = 0.0,
) -> Solution:
    """Approach the point of smallest norm by gradient descent on the logits of the weights.

    Kept for readers of the article and for comparison: a weight that should be zero only tends to it.
    `min_norm` is the exact answer.

    min_β ½‖Σ αᵢgᵢ + Σ λⱼhⱼ‖²,   α = softmax(β) on the first `num_simplex` rows, λ = exp(β)·unit on the rest

    Args:
      gram: G = JJᵀ, shape `(T, T)`. Only ratios of its entries matter.
      num_simplex: How many of the first rows are on the simplex, 1 to T; all by default. The article has
        them all there; the exponential is the same device for auxiliaries.
      optimizer: Descends on β; anything from Optax, made once and reused (a new object compiles anew). By
        default Adam with a cosine schedule over `max_steps`, which needs no tuning: β has no units, and G
        is normalised.
      max_steps: Most steps to run.
      tolerance: Stop at this gap, see Returns.

    Returns:
      `Solution(x, gap, num_steps)`: weights, shape `(T,)`, those of the simplex rows summing to one, and the
      certificate of `certificates.min_norm_gap`. It starts at αᵢ ∝ 1/‖gᵢ‖², exact for orthogonal gradients.
      A zero row on the simplex gets all the weight, a zero row outside none. Input that is not finite gives
      NaN and an infinite gap.

    Raises:
      ValueError: If `gram` is not square or `num_simplex` is not between 1 and T.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.solvers.softmax_descent(task_grads @ task_grads.T).x.round(3)
      Array([0.6, 0.4], dtype=float32)

    References:
      Su, scientific-spaces 8896 (19)–(20).
    """
    num_tasks = check_gram(gram)
    num_simplex = check_num_simplex(num_simplex, num_tasks)
    finite = jnp.all(jnp.isfinite(gram))
    safe = jnp.where(finite, gram, jnp.eye(num_tasks, dtype=gram.dtype))
    weights, num_steps = _descend(safe, num_simplex, optimizer, max_steps, tolerance)
    gap = min_norm_gap(safe, weights, num_simplex)
    return Solution(jnp.where(finite, weights, jnp.nan), jnp.where(finite, gap, jnp.inf), num_steps)


def _descend(gram, num_simplex, optimizer, max_steps, tolerance):
    correlation, lengths = normalize_rows(gram)
    on_simplex = jnp.arange(gram.shape[0]) < num_simplex
    stationary = on_simplex & (lengths == 0)
    shortest = jnp.min(jnp.where(on_simplex & ~stationary, lengths, jnp.inf))
    shortest = jnp.where(jnp.isfinite(shortest), shortest, jnp.max(lengths))
    ratio = shortest * reciprocal(lengths)
    inverse = reciprocal(ratio)

    def weights_at(logits):
        start = jnp.where(on_simplex, 2 * jnp.log(jnp.where(ratio > 0, ratio, 1)), 0)
        alpha = jax.nn.softmax(logits + start, where=on_simplex)
        return jnp.where(on_simplex, alpha, jnp.exp(jnp.where(on_simplex, 0, logits)) * ratio)

    def objective(logits):
        shares = weights_at(logits) * inverse
        return 0.5 * dot(shares, dot(correlation, shares))

    def advance(iterate):
        slope = jax.grad(objective)(iterate.logits)
        with jax.numpy_dtype_promotion("standard"):  # Optax relies on it
            updates, state = descent.update(slope, iterate.state, iterate.logits)
            logits = optax.apply_updates(iterate.logits, updates)
        gap = min_norm_gap(gram, weights_at(logits), num_simplex)
        return _Iterate(logits, state, gap, iterate.num_steps + 1)

    def unfinished(iterate):
        return (iterate.gap > tolerance) & (iterate.num_steps < max_steps)

    descent = _default_optimizer(max_steps) if optimizer is None else optimizer
    logits = jnp.where(on_simplex, 0, -jnp.log(jnp.full_like(gram[0], gram.shape[0])))
    gap = min_norm_gap(gram, weights_at(logits), num_simplex)
    start = _Iterate(logits, descent.init(logits), gap, (0 * gap).astype(jnp.int32))
    end = lax.while_loop(unfinished, advance, start)
    idle = stationary.astype(gram.dtype)
    count = jnp.sum(idle)
    return jnp.where(count > 0, idle / jnp.maximum(count, 1), weights_at(end.logits)), end.num_steps


def _default_optimizer(max_steps):
    def schedule(count):
        done = count.astype(jnp.float32) / jnp.asarray(max_steps, jnp.float32)
        return LEARNING_RATE * 0.5 * (1 + jnp.cos(jnp.pi * done))

    return optax.adam(schedule)
