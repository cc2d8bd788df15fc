"""MGDA: the point of smallest norm in the convex hull of the gradients."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import reciprocal, row_norms
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.solvers import min_norm
from mtlgrad_jax.typing import Gram, Solver, Weights

NORMALIZATIONS = ("none", "l2", "loss", "loss+")


def mgda(
    gram: Gram,
    *,
    normalization: str = "none",
    losses: jax.Array | None = None,
    log2_scale: jax.Array | int = 0,
    solver: Solver = min_norm,
) -> Weights:
    """Weigh tasks so that the update is the shortest convex combination of their gradients.

    The update has a non-negative inner product with every gradient, at least its own squared length;
    it is zero only where no direction improves all tasks (Pareto stationarity).

    α* = argmin_{α∈Δ} ‖Σ αᵢ gᵢ/nᵢ‖²,   wᵢ = αᵢ*/nᵢ

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      normalization: nᵢ is 1 (`"none"`), ‖gᵢ‖ (`"l2"`), Lᵢ (`"loss"`) or Lᵢ‖gᵢ‖ (`"loss+"`).
      losses: L, shape `(T,)`, positive; needed for `"loss"` and `"loss+"`.
      log2_scale: k, if `gram` is that of 2⁻ᵏJ.
      solver: A function of a Gram matrix returning a `Solution`; exact by default.

    Returns:
      w, shape `(T,)`. With `"none"` the weights sum to one. With the others they are in units of 1/nᵢ, so
      that the update Jᵀw is conflict-free; published code applies α to the raw gradients, which is not.
      A zero gradient counts as nᵢ = 1: its task is stationary and takes all the weight.

    Raises:
      ValueError: If `normalization` is unknown, or losses are missing or of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> mtl.weightings.mgda(task_grads @ task_grads.T)
      Array([0.6, 0.4], dtype=float32)

    References:
      Désidéri, C. R. Acad. Sci. 350 (2012); Sener & Koltun, arXiv 1810.04650 (normalisations from its code);
      Su, scientific-spaces 8896 (13)–(17).
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"expected normalization to be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}.")
    if normalization == "none":
        return solver(gram).x
    unit = jnp.ones_like(gram[0])
    if normalization.startswith("loss"):
        unit = _check_losses(losses, gram, normalization).astype(gram.dtype)
    if normalization in ("l2", "loss+"):
        lengths = row_norms(gram)
        unit = unit * jnp.where(lengths > 0, lengths, 1)
    inverse = reciprocal(unit)
    weights = solver(gram * inverse[:, None] * inverse[None, :]).x * inverse
    if normalization in ("l2", "loss+"):
        weights = scale_by_power_of_two(weights, -jnp.asarray(log2_scale))
    return weights


def _check_losses(losses, gram, normalization):
    if losses is None:
        raise ValueError(
            f"mgda with normalization={normalization!r} expected losses of shape (T,), got none; pass losses=losses, "
            "in a transformation as tx.update(task_grads, state, params, losses=losses)."
        )
    if jnp.shape(losses) != gram.shape[:1]:
        raise ValueError(f"expected losses of shape {gram.shape[:1]}, one per task, got {jnp.shape(losses)}.")
    return losses
