"""One coefficient at a time: the iteration of the article on primary and auxiliary tasks, and its repair."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import check_gram, dot, normalize_rows, reciprocal, row_norms, without_scale
from mtlgrad_jax.solvers.certificates import min_norm_gap
from mtlgrad_jax.typing import Gram, Solution

RULES = ("gauss_southwell", "article")


class _Iterate(NamedTuple):
    weights: jax.Array  # (T,), the first one is 1
    moved: jax.Array  # () bool, the last update changed something
    num_steps: jax.Array  # () int32


@partial(jax.jit, static_argnames=("num_simplex", "rule"))
def greedy_coordinate(
    gram: Gram,
    num_simplex: int = 1,
    *,
    rule: str = "gauss_southwell",
    max_steps: int = 1000,
    tolerance: float = 0.0,
) -> Solution:
    """Follow the primary and hurt no auxiliary, one auxiliary's coefficient at a time.

    Kept for readers of the article and for comparison: the article's rule can stop at a wrong point, and the
    repaired one, coordinate descent, converges linearly at best and takes thousands of updates where auxiliaries
    nearly oppose each other. `min_norm` is the exact answer. A solver for `primary_aux`, not for `mgda`.

    min ½‖g₀ + Σ λᵢgᵢ‖²,  λ ≥ 0:   λ_τ ← (−⟨u − λ_τg_τ, g_τ⟩)₊/‖g_τ‖²,   u = g₀ + Σ λᵢgᵢ

    The article takes τ = argmin ⟨gᵢ,u⟩. It never looks at a task that u helps too much, so a coefficient that
    has become too large stays. On g₀ = (−1,0), g₁ = (1,−1), g₂ = (1,0) it stops at λ = (½,½), u = (0,−½);
    the optimum is λ = (0,1), u = 0.

    Args:
      gram: G = JJᵀ, shape `(T, T)`, the primary in row 0.
      num_simplex: 1; the iteration has no simplex part.
      rule: How τ is chosen. `"gauss_southwell"` takes the coordinate whose exact update moves u the furthest;
        `"article"` takes the smallest ⟨gᵢ,u⟩.
      max_steps: Most updates to make.
      tolerance: Stop when the update moves u by no more than this times the longest gradient; a move below
        the rounding error of G always stops it.

    Returns:
      `Solution(x, gap, num_steps)`: (1, λ), shape `(T,)`, the certificate of `certificates.min_norm_gap`, and
      the number of updates made. An article's rule that stopped too early shows in `gap`. A zero auxiliary
      gradient gets weight zero. Input that is not finite gives NaN and an infinite gap.

    Raises:
      ValueError: If `gram` is not square, `num_simplex` is not 1, or `rule` is unknown.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-1.0, 0.0], [1.0, -1.0], [1.0, 0.0]])
      >>> mtl.solvers.greedy_coordinate(task_grads @ task_grads.T, rule="article").x
      Array([1. , 0.5, 0.5], dtype=float32)
      >>> mtl.solvers.greedy_coordinate(task_grads @ task_grads.T).x.round(4)
      Array([1., 0., 1.], dtype=float32)

    References:
      Su, scientific-spaces 8907 (7)–(8).
    """
    num_tasks = check_gram(gram)
    if num_simplex != 1:
        raise ValueError(
            f"greedy_coordinate solves for one primary, row 0, and expected num_simplex=1, got {num_simplex}; "
            "use solvers.min_norm for several primaries."
        )
    if rule not in RULES:
        raise ValueError(f"expected rule to be one of {', '.join(map(repr, RULES))}, got {rule!r}.")
    finite = jnp.all(jnp.isfinite(gram))
    safe = jnp.where(finite, gram, jnp.eye(num_tasks, dtype=gram.dtype))
    end = _iterate(without_scale(safe), rule, max_steps, tolerance)
    gap = min_norm_gap(safe, end.weights, 1)
    return Solution(jnp.where(finite, end.weights, jnp.nan), jnp.where(finite, gap, jnp.inf), end.num_steps)


def _iterate(gram, rule, max_steps, tolerance):
    """Update one λ per step, in units in which the longest gradient has length about one."""
    lengths = row_norms(gram)
    inverse = reciprocal(lengths)
    correlation, _ = normalize_rows(gram)
    auxiliary = (jnp.arange(gram.shape[0]) > 0) & (lengths > 0)
    rounding = 4 * jnp.finfo(gram.dtype).eps.item()

    def advance(iterate):
        shares = iterate.weights * lengths  # λᵢ‖gᵢ‖: how far each task moves u
        slope = dot(correlation, shares)  # ⟨gᵢ,u⟩/‖gᵢ‖
        change = jnp.where(auxiliary, jnp.maximum(shares - slope, 0) - shares, 0)
        key = -jnp.abs(change) if rule == "gauss_southwell" else dot(gram, iterate.weights)
        chosen = jnp.arange(gram.shape[0]) == jnp.argmin(jnp.where(auxiliary, key, jnp.inf))
        step = jnp.sum(jnp.where(chosen, change, 0))
        moved = jnp.abs(step) > jnp.maximum(tolerance, rounding) * jnp.max(shares)
        weights = jnp.where(chosen & moved, (shares + change) * inverse, iterate.weights)
        return _Iterate(weights, moved, iterate.num_steps + moved.astype(jnp.int32))

    def unfinished(iterate):
        return iterate.moved & (iterate.num_steps < max_steps)

    weights = jnp.where(jnp.arange(gram.shape[0]) == 0, jnp.ones_like(gram[0]), 0)
    none = (0 * gram[0, 0]).astype(jnp.int32)
    return lax.while_loop(unfinished, advance, _Iterate(weights, none == 0, none))
