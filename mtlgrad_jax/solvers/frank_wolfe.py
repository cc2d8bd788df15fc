"""Frank–Wolfe on the simplex: the articles' iteration, and the variant of it that finishes."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import check_gram, dot, without_scale
from mtlgrad_jax.solvers import _exact
from mtlgrad_jax.solvers.certificates import min_norm_gap
from mtlgrad_jax.solvers.min_norm import check_num_simplex, penalized, scale_to_simplex
from mtlgrad_jax.typing import Gram, Solution

STEPS = ("line_search", "1/(k+1)", "2/(k+2)", "fully_corrective")


class _Iterate(NamedTuple):
    weights: jax.Array  # (T,)
    gap: jax.Array  # ()
    num_steps: jax.Array  # () int32


@partial(jax.jit, static_argnames=("num_simplex", "step"))
def frank_wolfe(
    gram: Gram,
    num_simplex: int | None = None,
    *,
    step: str = "line_search",
    max_steps: int = 1000,
    tolerance: float = 0.0,
) -> Solution:
    """Approach the point of smallest norm in the hull of the gradients by Frank–Wolfe.

    Kept for readers of the literature and for comparison: it converges at O(1/k) only (on J = I every
    iterate with k active rows is at least 1/k − 1/T away). `min_norm` is the exact answer.

    min ½αᵀGα,  α ∈ Δ:   τ = argmin (Gα)ᵢ,   α ← (1 − γ)α + γe_τ

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      num_simplex: T or None; the iteration has no cone part.
      step: γ by exact `"line_search"`, or fixed at `"1/(k+1)"` (the averaged smoothed minimum) or
        `"2/(k+2)"`; or `"fully_corrective"`, which re-optimises over all active rows after each
        insertion (Wolfe 1976) and ends at the exact answer.
      max_steps: Most iterations to run; ignored by `"fully_corrective"`, which has its own bound.
      tolerance: Stop at this gap, relative to the largest squared length of a gradient.

    Returns:
      `Solution(x, gap, num_steps)` as from `min_norm`. It starts at the shortest gradient.

    Raises:
      ValueError: If `num_simplex` is less than T, or `step` is unknown.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> bool(mtl.solvers.frank_wolfe(jnp.eye(4), step="2/(k+2)", max_steps=100).gap > 1e-3)
      True
      >>> mtl.solvers.frank_wolfe(jnp.eye(4), step="fully_corrective").x.round(4)
      Array([0.25, 0.25, 0.25, 0.25], dtype=float32)

    References:
      Sener & Koltun, arXiv 1810.04650, algorithm 2; Su, scientific-spaces 8896 (11), (18); Jaggi (ICML 2013).
    """
    num_tasks = check_gram(gram)
    if check_num_simplex(num_simplex, num_tasks) != num_tasks:
        raise ValueError(
            f"frank_wolfe solves on the simplex of all {num_tasks} rows, got num_simplex={num_simplex}; "
            "use solvers.min_norm or solvers.greedy_coordinate for auxiliary tasks."
        )
    if step not in STEPS:
        raise ValueError(f"expected step to be one of {', '.join(map(repr, STEPS))}, got {step!r}.")
    finite = jnp.all(jnp.isfinite(gram))
    safe = jnp.where(finite, gram, jnp.eye(num_tasks, dtype=gram.dtype))
    if step == "fully_corrective":
        end = _fully_corrective(safe)
    else:
        end = _iterate(without_scale(safe), step, max_steps, tolerance)
    gap = min_norm_gap(safe, end.weights)
    return Solution(jnp.where(finite, end.weights, jnp.nan), jnp.where(finite, gap, jnp.inf), end.num_steps)


def _fully_corrective(gram):
    everywhere = jnp.ones(gram.shape[0], bool)
    program, ratio = penalized(gram, everywhere)
    x, num_steps = _exact.solve(program, one_at_a_time=True)
    return _Iterate(scale_to_simplex(x * ratio, everywhere), jnp.zeros_like(x[0]), num_steps)


def _iterate(gram, step, max_steps, tolerance):
    index = jnp.arange(gram.shape[0])

    def length(weights, vertex, num_steps):
        if step == "1/(k+1)":
            return 1 / (num_steps.astype(gram.dtype) + 1)
        if step == "2/(k+2)":
            return 2 / (num_steps.astype(gram.dtype) + 2)
        along = vertex - weights
        slope = -dot(weights, dot(gram, along))
        curvature = dot(along, dot(gram, along))
        return jnp.clip(jnp.where(curvature > 0, slope / jnp.where(curvature > 0, curvature, 1), 0), 0, 1)

    def advance(iterate):
        weights, _, num_steps = iterate
        vertex = (index == jnp.argmin(dot(gram, weights))).astype(gram.dtype)
        gamma = length(weights, vertex, num_steps)
        weights = (1 - gamma) * weights + gamma * vertex
        return _Iterate(weights, _gap(gram, weights), num_steps + 1)

    def unfinished(iterate):
        return (iterate.gap > tolerance * jnp.max(jnp.diagonal(gram))) & (iterate.num_steps < max_steps)

    weights = (index == jnp.argmin(jnp.diagonal(gram))).astype(gram.dtype)
    gap = _gap(gram, weights)
    return lax.while_loop(unfinished, advance, _Iterate(weights, gap, (gap - gap).astype(jnp.int32)))


def _gap(gram, weights):
    slope = dot(gram, weights)
    return dot(weights, slope) - jnp.min(slope)
