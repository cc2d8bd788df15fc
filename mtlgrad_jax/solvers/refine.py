"""Past the precision of a Gram matrix: weights from products with J itself, where those from G are not known."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import check_gram, round_lengths
from mtlgrad_jax.ground.members import rarely
from mtlgrad_jax.solvers import _exact, _root, certificates
from mtlgrad_jax.solvers.min_norm import check_num_simplex, penalized, scale_to_simplex
from mtlgrad_jax.typing import Gram, Solution, Weights


def refine(
    gram: Gram, weights: Weights, products: Callable[[jax.Array], jax.Array], num_simplex: int | None = None
) -> Solution:
    """Improve the weights of `min_norm` by products with J, where G does not tell them well enough.

    Squared lengths in a Gram matrix hide what is below √ε times the longest gradient. Products of whole directions with
    J hide only what is below ε of it: those of T of them that are nearly orthogonal, another pass over J, are a root R
    of JJᵀ, on which the program is solved again.

    min ½‖Rᵀw‖²,  RRᵀ = JJᵀ,  w feasible

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      weights: w, shape `(T,)`, feasible, in general from `min_norm`.
      products: B ↦ BJJᵀ, of shape `(T, T)` both, that forms BJ on the way, as below. Or with `jax.lax.map` in place of
        `jax.vmap`, for one direction in memory at a time.
      num_simplex: How many of the first rows are on the simplex, 1 to T; all by default.

    Returns:
      `Solution(x, gap, num_steps)`: weights, shape `(T,)`, feasible; a bound of (‖u‖² − ‖u*‖²)/‖u‖², about 4ε of
      the longest gradient in the length of u; and how many passes that took, at most two. None where `relative_gap` of
      G is at most √ε, as the minimum is flat and ‖u‖² then right to rounding; the weights are those given. So they
      are where products turn out to be worse than G. Derivatives are those of `weights`.

    Raises:
      ValueError: If `gram` is not square or `num_simplex` is not between 1 and T.

    Example:
      >>> import jax, jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[1.0, 1e-4, 0.0, 0.0], [-1.0, 1e-4, 2e-4, 0.0], [1.0, -5e-5, 3e-4, 1e-4]])
      >>> jac = mtl.jacobians.stacked.Stacked(task_grads)  # or what `linearize` of any other way to hold J returns
      >>> gram = jac.gram()
      >>> weights = mtl.solvers.min_norm(gram).x
      >>> float(mtl.solvers.certificates.relative_gap(gram, weights))  # one: nothing is known of them
      1.0
      >>> solution = mtl.solvers.refine(gram, weights, jax.vmap(lambda w: jac.push(jac.combine(w))))
      >>> solution.x.round(4), bool(solution.gap < 0.01)
      (Array([0.5, 0.5, 0. ], dtype=float32), True)

    References:
      Yamamoto, Nakatsukasa, Yanagisawa & Fukaya, "Roundoff error analysis of the CholeskyQR2 algorithm" (2015).
    """
    num_simplex = check_num_simplex(num_simplex, check_gram(gram))
    known, start = jax.lax.stop_gradient((gram, weights))
    gap = certificates.relative_gap(known, start, num_simplex)
    none = jnp.zeros_like(gap, dtype=jnp.int32)
    asked = gap > jnp.finfo(gram.dtype).eps.item() ** 0.5

    def measured():
        found = _solve(known, start, lambda basis: jax.lax.stop_gradient(products(basis)), num_simplex)
        better = found.gap <= gap
        return Solution(jnp.where(better, found.x, start), jnp.minimum(found.gap, gap), found.num_steps)

    solution = rarely(asked, measured, lambda: Solution(start, gap, none))
    return solution._replace(x=_in_place_of(weights, solution.x))


def _solve(gram, weights, products, num_simplex):
    """Solve the program on a root that is measured."""
    on_simplex = jnp.arange(gram.shape[0]) < num_simplex
    scaled, units = round_lengths(gram)
    root = _root.measure(scaled, lambda basis: products(basis * units[None, :]) * units[None, :])
    program, ratio = penalized(gram, on_simplex)
    start = jnp.where(ratio > 0, weights / jnp.where(ratio > 0, ratio, 1), 0)
    x, _ = _exact.solve(program._replace(root=root.rows), start, resolution=jnp.finfo(gram.dtype).eps.item())
    weights = scale_to_simplex(x * ratio, on_simplex)
    gap = certificates.relative_gap_on_root(gram, weights, root.rows, root.rounding, num_simplex)
    return Solution(weights, gap, root.num_passes)


@jax.custom_jvp
def _in_place_of(weights, better):
    """Return the better weights; they move as those that they replace."""
    del weights  # unused
    return better


@_in_place_of.defjvp
def _move(primals, tangents):
    return primals[1], tangents[0]
