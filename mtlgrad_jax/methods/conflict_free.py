"""ConFIG: an equal angle with every gradient, and a length that follows their agreement."""

from functools import partial

import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram, dot, normalize_rows, reciprocal, without_scale
from mtlgrad_jax.methods import _preference, _spectral
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, PerTask, Weights

CLAIMS = Claims(
    "equal angles with all gradients",
    keeps="PF",
    sums_to="T",
    costs="T×T solve",
    variants={
        "preference": {"options": lambda num_tasks: {"preference": jnp.arange(1.0, num_tasks + 1)}, "keeps": ""},
        "shortest": {"options": lambda num_tasks: {"length": "minimum"}},
        "harmonic": {"options": lambda num_tasks: {"length": "harmonic"}},
    },
)
LENGTHS = ("projection", "minimum", "maximum", "arithmetic", "harmonic", "geometric")


def weights(gram: Gram, *, preference: PerTask | None = None, length: str | int = "projection") -> Weights:
    """Weigh tasks so that the update makes the same acute angle with every gradient.

    The direction does not change when a loss is rescaled; the length is the sum of the projections of all
    gradients onto it, short in conflict and long in agreement.

    u = unit([ĝ₁ … ĝ_T]⁺Tp),  d = (Σᵢ nᵢ⟨ĝᵢ,u⟩)u;   in Gram form d = Jᵀw,  wᵢ = βᵢ/‖gᵢ‖·Σⱼ nⱼ(Cβ)ⱼ/βᵀCβ,  β = C⁺Tp

    Args:
      gram: G = JJᵀ, shape `(T, T)`; the pseudo-inverse of the (T, P) matrix of unit gradients is not needed.
      preference: p, shape `(T,)`, non-negative: the cosines are in these proportions; 1/T each by default.
      length: nᵢ is ‖gᵢ‖ (`"projection"`), or for all tasks the `"minimum"`, `"maximum"`, or `"arithmetic"`,
        `"harmonic"` or `"geometric"` mean of these lengths, or that of the task whose number is given.

    Returns:
      w, shape `(T,)`; sums to T when all tasks agree (compare `sum`, not `mean`). With linearly dependent
      gradients the equal angle holds in the least-squares sense only. A zero gradient gets weight zero and has no part
      in the means; in exact opposition all weights are zero.

    Raises:
      ValueError: If `gram` is not square, `preference` not of shape `(T,)` or negative, or `length` unknown.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> (mtl.weightings.conflict_free(task_grads @ task_grads.T) @ task_grads).tolist()
      [0.1588, 2.0706, 2.0706]

    References:
      Liu, Chu & Thuerey (ConFIG), arXiv 2408.11104, (2)–(3); direction weights and other lengths as in its published
      code, where a preference of k·p is p.
    """
    target = None if preference is None else gram.shape[0] * _preference.resolve(preference, gram)
    check_length(length, check_gram(gram))
    correlation, lengths = normalize_rows(without_scale(gram))
    shares = _spectral.equal_cosines(correlation, lengths > 0, target)
    cosines = dot(correlation, shares)
    square = dot(shares, cosines)
    total = dot(_projected(lengths, length), cosines)
    return jnp.where(square > 0, total / jnp.where(square > 0, square, 1), 0) * shares * reciprocal(lengths)


def check_length(length: str | int, num_tasks: int) -> None:
    """Refuse a length that there is not."""
    known = length in LENGTHS if isinstance(length, str) else 0 <= length < num_tasks
    if not known:
        raise ValueError(
            f"conflict_free expected length to be one of {', '.join(LENGTHS)} or the number of a task, 0 to "
            f"{num_tasks - 1}, got {length!r}."
        )


def _projected(lengths, length):
    """Return the lengths that the gradients have when they are projected; a zero gradient has no part in a mean."""
    if length == "projection":
        return lengths
    if not isinstance(length, str):
        return jnp.full_like(lengths, 1) * lengths[length]
    present = lengths > 0
    count = jnp.maximum(jnp.sum(present.astype(lengths.dtype)), 1)
    some = jnp.any(present)
    tracked = {
        "minimum": lambda: jnp.min(jnp.where(present, lengths, jnp.inf)),
        "maximum": lambda: jnp.max(lengths),
        "arithmetic": lambda: jnp.sum(lengths) / count,
        "harmonic": lambda: count * reciprocal(jnp.sum(reciprocal(lengths))),
        "geometric": lambda: jnp.exp(jnp.sum(jnp.log(jnp.where(present, lengths, 1))) / count),
    }[length]()
    return jnp.where(present & some, tracked, 0)


def conflict_free(
    num_tasks: int | None = None,
    *,
    preference: PerTask | None = None,
    length: str | int = "projection",
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the direction that makes the same acute angle with every gradient.

    Args:
      num_tasks: T, see `aggregate`.
      preference: p, shape `(T,)`, non-negative: the cosines are in these proportions; 1/T each by default.
      length: `"projection"`, `"minimum"`, `"maximum"`, `"arithmetic"`, `"harmonic"`, `"geometric"` or the number of a
        task, see `weightings.conflict_free`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.conflict_free(2)
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    weigh = partial(weights, preference=preference, length=length)
    return aggregate(weigh, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
