"""Past the precision of a Gram matrix: weights corrected by inner products that were measured on J itself."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import check_gram, dot, round_lengths
from mtlgrad_jax.solvers import _exact, _products, _program
from mtlgrad_jax.solvers.min_norm import check_num_simplex, penalized, scale_to_simplex
from mtlgrad_jax.typing import Gram, Weights

RESOLUTION = 2.0**-13  # in rounding errors of a product with G; measured inner products are better than these


@jax.jit
def refine(gram: Gram, weights: Weights, slopes: jax.Array, num_simplex: int | None = None) -> Weights:
    """Improve the weights of `min_norm` by one measurement of what their direction does to every task.

    Squared lengths in a Gram matrix hide what is below √ε times the longest gradient. The inner products ⟨gᵢ,u⟩ of the
    direction itself hide much less, since u is short when it matters: what they add to Gw is a correction of G, and the
    program is solved again with it.

    min ½wᵀGw + cᵀw,  c = Ju − Gw,  w feasible

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      weights: w, shape `(T,)`, feasible, in general from `min_norm`.
      slopes: Ju, u = Jᵀw, shape `(T,)`, computed from J and not from G: `jac.push(jac.combine(weights))`.
      num_simplex: How many of the first rows are on the simplex, 1 to T; all by default.

    Returns:
      Weights, shape `(T,)`, feasible.

    Raises:
      ValueError: If `gram` is not square or `num_simplex` is not between 1 and T.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[1.0, 1e-4, 0.0, 0.0], [-1.0, 1e-4, 2e-4, 0.0], [1.0, -5e-5, 3e-4, 1e-4]])
      >>> jac = mtl.jacobians.stacked.Stacked(task_grads)  # or what `linearize` of any other way to hold J returns
      >>> gram = jac.gram()
      >>> weights = mtl.solvers.min_norm(gram).x
      >>> float(mtl.solvers.certificates.relative_gap(gram, weights))  # one: nothing is known of them
      1.0
      >>> mtl.solvers.refine(gram, weights, jac.push(jac.combine(weights))).round(4)
      Array([0.5, 0.5, 0. ], dtype=float32)
    """
    num_tasks = check_gram(gram)
    on_simplex = jnp.arange(num_tasks) < check_num_simplex(num_simplex, num_tasks)
    program, ratio = penalized(gram, on_simplex)
    _, units = round_lengths(gram)
    x = jnp.where(ratio > 0, weights / jnp.where(ratio > 0, ratio, 1), 0)
    measured = slopes * units * jnp.max(jnp.where(on_simplex, units, 0))
    high, low = _products.product(_products.of_matrix(program.quadratic, _program.EXPONENT), x)
    difference, error = _products.two_sum(measured, -high)
    missing = difference + (error - low)
    # The symmetric correction csᵀ + scᵀ of Q that turns Qx into what was measured, as sᵀx = 1.
    program = program._replace(linear=missing - dot(missing, x) / 2 * program.share)
    x, _ = _exact.solve(program, x, resolution=RESOLUTION)
    return scale_to_simplex(x * ratio, on_simplex)
