"""PCGrad: project every gradient off those it conflicts with, one after the other, and add up."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mtlgrad_jax.combinators.keyed import keyed
from mtlgrad_jax.ground.grams import check_gram, dot
from mtlgrad_jax.methods import _preference
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, PerTask, Weights

CLAIMS = Claims(
    "sum of gradients projected pairwise",
    keeps="LZF",
    needs="K",
    sums_to="T",
    costs="T² projections",
    variants={"two_tasks": {"keeps": "CPLZF", "max_tasks": 2}},
)


def weights(gram: Gram, key: jax.Array, *, preference: PerTask | None = None) -> Weights:
    """Weigh tasks as projecting conflicting gradients does, in an order drawn at random.

    Each gᵢ starts as itself and visits the others in its own random order; from each that it conflicts with
    it is projected off. All of it happens on coefficients, since every gᵢ′ stays in the span of the rows.

    gᵢ′ ← gᵢ′ + (−⟨gᵢ′,gⱼ⟩)₊/‖gⱼ‖² · gⱼ for all j ≠ i in random order,   u = Σ T pᵢ gᵢ′

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      key: A `jax.random.key`, see `keyed` for one per step.
      preference: p, shape `(T,)`, of the sum of what the projections left; 1/T each by default.

    Returns:
      w, shape `(T,)`. The weights sum to T Σpᵢ when no two tasks conflict (then they are T pᵢ, all one by default), and
      to more otherwise. For T = 2 the update hurts no task and is twice that of `upgrad`; for more it may. A zero
      gradient conflicts with nothing and gets weight T pᵢ.

    Raises:
      ValueError: If `preference` is not of shape `(T,)` or negative.

    Example:
      >>> import jax, jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.weightings.pcgrad(task_grads @ task_grads.T, jax.random.key(0))
      Array([2.2222223, 1.5789473], dtype=float32)

    References:
      Yu et al., arXiv 2001.06782, algorithm 1. Some re-implementations never shuffle, or project leaf by leaf.
    """
    num_tasks = check_gram(gram)
    orders = random_orders(key, num_tasks)
    index = jnp.arange(num_tasks)

    def visit(step, coefficients):
        other = orders[:, step]
        along = jnp.sum(coefficients * gram[other], axis=1)
        squared = jnp.diagonal(gram)[other]
        conflict = (along < 0) & (squared > 0) & (other != index)
        share = jnp.where(conflict, -along / jnp.where(squared > 0, squared, 1), 0)
        return coefficients + share[:, None] * jax.nn.one_hot(other, num_tasks, dtype=gram.dtype)

    start = jnp.eye(num_tasks, dtype=gram.dtype) + jnp.zeros_like(gram)
    coefficients = lax.fori_loop(0, num_tasks, visit, start)
    if preference is None:
        return jnp.sum(coefficients, axis=0)
    return num_tasks * dot(_preference.resolve(preference, gram), coefficients)


def random_orders(key: jax.Array, num_tasks: int) -> jax.Array:
    """Draw one permutation of the tasks for each task, shape `(T, T)`, one per row."""
    return jnp.argsort(jax.random.uniform(key, (num_tasks, num_tasks)), axis=1)


def pcgrad(
    num_tasks: int | None = None,
    *,
    key: jax.Array | int = 0,
    preference: PerTask | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the sum of the task gradients, each projected off those that it conflicts with.

    Args:
      num_tasks: T, see `aggregate`.
      key: An int seed or a `jax.random.key`; it lives in the state and every step draws anew.
      preference: p, shape `(T,)`, of the sum of what the projections left; 1/T each by default.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients; the sum of the gradients where none conflict.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.pcgrad(num_tasks=2, key=0), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)))
      >>> state.weights
      Array([2.2222223, 1.5789473], dtype=float32)
    """
    return aggregate(
        keyed(partial(weights, preference=preference), key), num_tasks, axis_name=axis_name, nonfinite=nonfinite
    )
