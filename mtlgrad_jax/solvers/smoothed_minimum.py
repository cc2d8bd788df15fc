"""The smoothed minimum: softmax in place of min, at finite sharpness and in its averaged limit."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import linalg

from mtlgrad_jax.ground.grams import check_gram, dot, reciprocal
from mtlgrad_jax.solvers._packed_loop import while_loop
from mtlgrad_jax.solvers.certificates import min_norm_gap
from mtlgrad_jax.solvers.min_norm import check_num_simplex
from mtlgrad_jax.typing import Gram, Solution

ITERATIONS = ("newton", "averaged", "plain")
GROWTH = 4.0  # of the sharpness, from one Newton stage to the next
CLOSE = 0.1  # total variation at which a stage hands over to the next
NUM_HALVINGS = 12
WORTHWHILE = 0.99  # a step that lowers the residual by less has met the rounding error


class _Iterate(NamedTuple):
    weights: jax.Array  # (T,)
    sharpness: jax.Array  # (), λ of this stage
    settled: jax.Array  # () bool, at the last stage a step no longer helps
    num_steps: jax.Array  # () int32


@partial(jax.jit, static_argnames=("num_simplex", "iteration"))
def smoothed_minimum(
    gram: Gram,
    num_simplex: int | None = None,
    *,
    sharpness: float = 1000.0,
    iteration: str = "newton",
    max_steps: int = 200,
) -> Solution:
    """Find the direction that maximises a smooth lower bound of the worst task's gain.

    Kept for readers of the article and for comparison; it is MGDA in the limit of infinite sharpness, and
    `min_norm` is that limit, exactly.

    max_u −(1/λ) log Σ exp(−λ⟨gᵢ,u⟩) − ½‖u‖²:   u = Jᵀw,  w = softmax(−λGw)

    Args:
      gram: G = JJᵀ, shape `(T, T)`. Only ratios of its entries matter.
      num_simplex: T or None; there is no cone part.
      sharpness: λ·maxᵢ‖gᵢ‖², without units. Infinite turns the softmax into the minimum's vertex.
      iteration: `"newton"` solves the equation by Newton steps along increasing sharpness (beyond
        1/(8T·eps) float32 sees no difference, and it stops there). The article's iterations are
        `"plain"`, w ← softmax(−λGw), which oscillates when λ is large, and `"averaged"`,
        w ← (k·w + softmax(−λGw))/(k+1), whose limit λ → ∞ is Frank–Wolfe with the step 1/(k+1).
      max_steps: Most iterations to run; the last two run all of them.

    Returns:
      `Solution(x, gap, num_steps)`: weights on the simplex, shape `(T,)`, and the certificate of
      `certificates.min_norm_gap`, at most log(T)/sharpness at the solution of the equation. Input that is
      not finite gives NaN and an infinite gap.

    Raises:
      ValueError: If `gram` is not square, `num_simplex` is less than T, or `iteration` is unknown.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.solvers.smoothed_minimum(task_grads @ task_grads.T, sharpness=1e5).x.round(3)
      Array([0.6, 0.4], dtype=float32)

    References:
      Su, scientific-spaces 8896 (7)–(12).
    """
    num_tasks = check_gram(gram)
    if check_num_simplex(num_simplex, num_tasks) != num_tasks:
        raise ValueError(
            f"smoothed_minimum solves on the simplex of all {num_tasks} rows, got num_simplex={num_simplex}; "
            "use solvers.min_norm for auxiliary tasks."
        )
    if iteration not in ITERATIONS:
        raise ValueError(f"expected iteration to be one of {', '.join(map(repr, ITERATIONS))}, got {iteration!r}.")
    finite = jnp.all(jnp.isfinite(gram))
    safe = jnp.where(finite, gram, jnp.eye(num_tasks, dtype=gram.dtype))
    scaled = safe * reciprocal(jnp.max(jnp.diagonal(safe)))
    target = jnp.asarray(sharpness, gram.dtype)
    if iteration == "newton":
        weights, num_steps = _newton(scaled, target, max_steps)
    else:
        weights, num_steps = _repeat(scaled, target, max_steps, averaged=iteration == "averaged")
    gap = min_norm_gap(safe, weights)
    return Solution(jnp.where(finite, weights, jnp.nan), jnp.where(finite, gap, jnp.inf), num_steps)


def _respond(gram, weights, sharpness):
    """Return softmax(−λGw), at λ = ∞ the vertex of the smallest component."""
    slope = dot(gram, weights)
    vertex = (jnp.arange(slope.shape[0]) == jnp.argmin(slope)).astype(slope.dtype)
    finite = jnp.isfinite(sharpness)
    return jnp.where(finite, jax.nn.softmax(-jnp.where(finite, sharpness, 0) * slope), vertex)


def _repeat(gram, sharpness, max_steps, *, averaged):
    def advance(step, weights):
        count = step.astype(gram.dtype)
        gamma = 1 / (count + 1) if averaged else jnp.ones_like(count)
        return (1 - gamma) * weights + gamma * _respond(gram, weights, sharpness)

    shortest = (jnp.arange(gram.shape[0]) == jnp.argmin(jnp.diagonal(gram))).astype(gram.dtype)
    max_steps = jnp.asarray(max_steps, jnp.int32)
    return lax.fori_loop(jnp.zeros_like(max_steps), max_steps, advance, shortest), max_steps


def _newton(gram, target, max_steps):
    """Solve w = softmax(−λGw) while λ grows to its target; every step may shorten itself, so none goes astray."""
    num_tasks = gram.shape[0]
    target = jnp.minimum(target, 1 / (8 * num_tasks * jnp.finfo(gram.dtype).eps.item()))
    target = target + 0 * gram[0, 0]  # varies over a mesh as the input does
    lengths = jnp.append(0.5 ** jnp.arange(NUM_HALVINGS, dtype=gram.dtype), 0)

    def residual_at(weights, sharpness):
        return jnp.sum(jnp.abs(weights - _respond(gram, weights, sharpness)))

    def advance(iterate):
        along = _newton_direction(gram, iterate.weights, iterate.sharpness)
        trials = iterate.weights[None, :] + lengths[:, None] * along[None, :]
        residuals = jax.vmap(residual_at, (0, None))(trials, iterate.sharpness)
        best = jnp.argmin(residuals)
        better = residuals[best] < WORTHWHILE * residuals[-1]
        weights = jnp.where(better, trials[best], iterate.weights)
        sharper = jnp.minimum(GROWTH * iterate.sharpness, target)
        sharpness = jnp.where((residuals[best] < CLOSE) | ~better, sharper, iterate.sharpness)
        settled = (iterate.sharpness >= target) & ~better
        return _Iterate(weights, sharpness, settled, iterate.num_steps + 1)

    def unfinished(iterate):
        return ~iterate.settled & (iterate.num_steps < max_steps)

    uniform = jnp.full_like(gram[0], 1 / num_tasks)
    first = jnp.minimum(target, 1)
    none = (0 * gram[0, 0]).astype(jnp.int32)
    end = while_loop(unfinished, advance, _Iterate(uniform, first, none > 0, none))
    weights = jnp.maximum(end.weights, 0)
    return weights / jnp.sum(weights), end.num_steps


def _newton_direction(gram, weights, sharpness):
    """Solve (I + λSG)d = p − w with p = softmax(−λGw), S = diag(p) − ppᵀ = BBᵀ.

    By Woodbury's identity this takes the Cholesky factor of I + λBᵀGB, which is at least the identity.
    """
    response = _respond(gram, weights, sharpness)
    root = jnp.sqrt(response)
    factor = jnp.diag(root) - response[:, None] * root[None, :]  # B = diag(√p)(I − √p√pᵀ)
    middle = sharpness * dot(factor.T, dot(gram, factor)) + jnp.eye(gram.shape[0], dtype=gram.dtype)
    lower = linalg.cholesky(middle, symmetrize_input=True)
    gap = response - weights
    rhs = dot(factor.T, dot(gram, gap))[:, None]
    half = linalg.triangular_solve(lower, rhs, left_side=True, lower=True)
    solved = linalg.triangular_solve(lower, half, left_side=True, lower=True, transpose_a=True)[:, 0]
    direction = gap - sharpness * dot(factor, solved)
    return jnp.where(jnp.all(jnp.isfinite(direction)), direction, gap)
