"""Primary and auxiliary tasks: follow the primaries, never hurt the auxiliaries."""

from functools import partial

import jax
import optax

from mtlgrad_jax.ground.presence import fill_hull
from mtlgrad_jax.methods._extras import refinement
from mtlgrad_jax.solvers import min_norm
from mtlgrad_jax.solvers.certificates import min_norm_gap
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Method, Nonfinite, Solver, Weights

CLAIMS = Claims(
    "primary that hurts no auxiliary",
    keeps="AF",
    sums_to="1",
    costs="program",
    variants={"two_primaries": {"options": lambda num_tasks: {"num_primary": 2}, "keeps": "F", "min_tasks": 2}},
)


def weights(
    gram: Gram, *, num_primary: int = 1, solver: Solver = min_norm, present: jax.Array | None = None
) -> Weights:
    """Weigh tasks so that the update follows the primaries and raises no auxiliary loss.

    With one primary this is the projection of its gradient onto the directions that hurt no auxiliary;
    with p primaries it starts from their MGDA direction; with p = T it is MGDA. For a single auxiliary
    λ = (−⟨g,h⟩)₊/‖h‖².

    min ½‖Σ αᵢgᵢ + Σ λⱼhⱼ‖²,  α ∈ Δ on the first `num_primary` rows, λ ≥ 0 on the rest

    Args:
      gram: G = JJᵀ, shape `(T, T)`, the primaries first.
      num_primary: p, from 1 to T.
      solver: A function of `(gram, num_simplex=p)` returning a `Solution`; exact by default.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w = (α, λ), shape `(T,)`; the primaries' weights sum to one, the auxiliaries' are zero when no
      task conflicts. A zero auxiliary gradient gets weight zero; a zero primary stops the update.

    Raises:
      ValueError: If `num_primary` is not between 1 and T.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[2.0, 0.0], [-1.0, 1.0]])
      >>> weights = mtl.weightings.primary_aux(task_grads @ task_grads.T)
      >>> weights, weights @ task_grads
      (Array([1., 1.], dtype=float32), Array([1., 1.], dtype=float32))

    References:
      Su, scientific-spaces 8907 (1)–(9); Lopez-Paz & Ranzato (GEM), arXiv 1706.08840; Chaudhry et al.
      (A-GEM), arXiv 1812.00420.
    """
    gram, move = fill_hull(gram, present, num_primary)
    return move(solver(gram, num_simplex=num_primary).x)


def primary_aux(
    num_tasks: int | None = None,
    *,
    num_primary: int = 1,
    solver: Solver | None = None,
    refine: bool = False,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the primary tasks and never hurt the auxiliary ones, to first order.

    That is said of the update that it hands on; `guard` says it of the step that an optimiser makes of it.

    Args:
      num_tasks: T, see `aggregate`.
      num_primary: p, how many of the first rows are primaries; 1 to T.
      solver: The solver of the inner program; exact by default. (None rather than a function, because
        `optax.inject_hyperparams` takes functions for schedules; list it in static_args there.)
      refine: Whether to go past the precision of G where the primaries are nearly opposed, see `mgda` and
        `solvers.refine`; `gap` is then a bound of (‖u‖² − ‖u*‖²)/‖u‖².
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients, primaries first. Its update is the primaries'
      MGDA direction if no auxiliary conflicts with it.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> tx = mtl.primary_aux()
      >>> params = jnp.zeros(2)
      >>> update, _ = tx.update(jnp.array([[2.0, 0.0], [-1.0, 1.0]]), tx.init(params), params)
      >>> update
      Array([1., 1.], dtype=float32)
    """
    weigh = partial(weights, num_primary=num_primary, solver=solver or min_norm)
    gap = partial(min_norm_gap, num_simplex=num_primary)
    method = Method(weigh, gap, num_primary, refinement(refine, num_primary))
    return aggregate(method, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
