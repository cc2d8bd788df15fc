"""MGDA: the point of smallest norm in the convex hull of the gradients."""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from mtlgrad_jax.ground.grams import check_gram, reciprocal, row_norms
from mtlgrad_jax.ground.logarithms import log_losses
from mtlgrad_jax.ground.presence import everyone, fill_hull, leave_out, number, only
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two
from mtlgrad_jax.methods import _preference
from mtlgrad_jax.methods._extras import check_losses, refinement
from mtlgrad_jax.solvers import min_norm
from mtlgrad_jax.solvers.certificates import conflict_gap, min_norm_gap
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Method, Nonfinite, PerTask, Solver, Weights

CLAIMS = Claims(
    "shortest convex combination",
    keeps="CPF",
    sums_to="1",
    costs="program",
    variants={
        "l2": {"options": lambda num_tasks: {"normalization": "l2"}, "degree": -1},
        "preference": {"options": lambda num_tasks: {"preference": jnp.arange(1.0, num_tasks + 1)}, "keeps": "CF"},
    },
)


Normalization = Literal["none", "l2", "loss", "loss+"]
NORMALIZATIONS = get_args(Normalization)


def weights(
    gram: Gram,
    *,
    normalization: Normalization = "none",
    preference: PerTask | None = None,
    losses: ArrayLike | None = None,
    log2_scale: jax.Array | int = 0,
    solver: Solver = min_norm,
    present: jax.Array | None = None,
) -> Weights:
    """Weigh tasks so that the update is the shortest convex combination of their gradients.

    The update has a non-negative inner product with every gradient, at least its own squared length;
    it is zero only where no direction improves all tasks (Pareto stationarity).

    α* = argmin_{α∈Δ} ‖Σ αᵢ gᵢ/(T pᵢ nᵢ)‖²,   wᵢ = αᵢ*/(T pᵢ nᵢ);   u is along the d of length one with the largest
    minᵢ ⟨gᵢ,d⟩/(pᵢ nᵢ)

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      normalization: nᵢ is 1 (`"none"`), ‖gᵢ‖ (`"l2"`), Lᵢ (`"loss"`) or Lᵢ‖gᵢ‖ (`"loss+"`).
      preference: p, shape `(T,)`, positive, in what proportion the tasks should gain; 1/T each by default.
      losses: L, shape `(T,)`, positive; needed for `"loss"` and `"loss+"`.
      log2_scale: k, if `gram` is that of 2⁻ᵏJ.
      solver: A function of a Gram matrix returning a `Solution`; exact by default.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`. With `"none"` and no preference they sum to one. With the others they are in units of 1/nᵢ, so
      that the update Jᵀw is conflict-free; published code applies α to the raw gradients, which is not.
      A zero gradient counts as nᵢ = 1: its task is stationary and takes all the weight. A loss that is not
      positive and finite cannot divide a gradient: its task is left out of the hull and may be hurt, as the
      certificate of the transformation tells; if no loss can, w = 0 and it is infinite.

    Raises:
      ValueError: If `normalization` is unknown, or losses are missing, or losses or `preference` are of the
        wrong shape or not positive.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.weightings.mgda(task_grads @ task_grads.T)
      Array([0.6, 0.4], dtype=float32)

    References:
      Désidéri, C. R. Acad. Sci. 350 (2012); Sener & Koltun, arXiv 1810.04650 (normalisations from its code);
      Su, scientific-spaces 8896 (13)–(17).
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"expected normalization to be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}.")
    check_gram(gram)
    if normalization == "none" and preference is None:
        hull, move = fill_hull(gram, present)
        return move(solver(hull).x)
    gram, unit, exponent = leave_out(gram, present), jnp.ones_like(gram[0]), jnp.zeros((), jnp.int32)
    if preference is not None:
        unit = _preference.resolve_positive(preference, gram, present)
        unit = unit * number(everyone(present, unit), unit.dtype)
    if normalization.startswith("loss"):
        losses = check_losses(losses, gram, f"mgda with normalization={normalization!r}")
        present = everyone(present, losses) & log_losses(losses)[1]
        exponent = exponent_of(jnp.min(jnp.where(present, losses, jnp.max(only(losses, present)))))
        unit = unit * jnp.where(present, scale_by_power_of_two(losses, -exponent), 1)
    if normalization in ("l2", "loss+"):
        lengths = row_norms(gram)
        unit = unit * jnp.where(lengths > 0, lengths, 1)
        exponent = exponent + jnp.where(lengths > 0, jnp.asarray(log2_scale), 0)
    inverse = reciprocal(unit)
    hull, move = fill_hull(gram * inverse[:, None] * inverse[None, :], present)
    return scale_by_power_of_two(move(solver(hull).x) * inverse, -exponent)


def _gap(gram, weights, *, present=None):
    """Measure the deepest conflict; without an answer, where no task has a length to be divided by, it is infinite."""
    gram = leave_out(gram, present)
    answered = jnp.any(weights != 0) | ~jnp.any(jnp.diagonal(gram) > 0)
    return jnp.where(answered, conflict_gap(gram, weights), jnp.inf)


def mgda(
    num_tasks: int | None = None,
    *,
    normalization: Normalization = "none",
    preference: PerTask | None = None,
    solver: Solver | None = None,
    refine: bool = False,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the shortest convex combination of the task gradients, which hurts no task of the batch to first order.

    u = Σ αᵢgᵢ,   α = argmin_{α∈Δ} ‖Σ αᵢgᵢ‖²

    That is said of the update that it hands on; `guard` says it of the step that an optimiser makes of it.

    Args:
      num_tasks: T. If given, it is checked, and the state keeps G, the weights and `gap`; see `aggregate`.
      normalization: `"none"`, `"l2"`, `"loss"` or `"loss+"`, see `weightings.mgda`; the last two need
        `tx.update(..., losses=losses)`.
      preference: p, shape `(T,)`, positive, in what proportion the tasks should gain; 1/T each by default.
      solver: Of the inner program; the exact `solvers.min_norm` by default. `optax.inject_hyperparams`, which takes
        functions for schedules, must list it in `static_args`.
      refine: Whether to go past the precision of G near Pareto stationarity, see `solvers.refine`: where G does not
        tell the weights, and only there, another pass over J or two, each T products with it. `gap` is then a bound of
        (‖u‖² − ‖u*‖²)/‖u‖². Not with a normalisation or a preference.
      axis_name: Of the mesh, in `shard_map`; see `aggregate`.
      nonfinite: What NaN and infinity do, `"propagate"`, `"skip"` or `"drop_task"`; see `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients. At a Pareto stationary point, and when a task's
      gradient is zero, its update is zero. `gap` is the Frank–Wolfe gap (with a normalisation or a
      preference, the deepest conflict; with `refine`, relative to ‖u‖²).

    Raises:
      ValueError: If `refine` is no bool or meets a normalisation or a preference, and as `aggregate`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.mgda(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)))
      >>> state.weights
      Array([0.6, 0.4], dtype=float32)
    """
    weigh = partial(weights, normalization=normalization, preference=preference, solver=solver or min_norm)
    plain = normalization == "none" and preference is None
    if refine is True and not plain:
        raise ValueError(
            f"mgda expected refine=False with normalization={normalization!r} and preference={preference!r}, got True; "
            "it refines the shortest combination of the gradients as they are."
        )
    method = Method(weigh, certificate=min_norm_gap if plain else _gap, refine=refinement(refine))
    return aggregate(method, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
