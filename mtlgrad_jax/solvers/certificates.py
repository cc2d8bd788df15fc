"""How far a weight vector is from optimal, as a number without units.

The gaps in units of the longest gradient are residuals: small where the answer is as good as those units let one see,
whatever it does to gradients that are much shorter. `worst_alignment` and `relative_gap` are in units of the direction
itself. They count the rounding error that a Gram matrix is known to have, so that they cannot be better than the truth,
and where nothing is known they say so: −1, and 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.grams import dot, reciprocal, round_lengths, row_norms
from mtlgrad_jax.solvers import _products, _program, _restricted

NUM_REPAIRS = 4


def min_norm_gap(gram: jax.Array, weights: jax.Array, num_simplex: int | None = None) -> jax.Array:
    """Measure the optimality gap of weights for the mixed program.

    min ½‖Σ αᵢgᵢ + Σ λⱼhⱼ‖²,  α ∈ Δ on the first `num_simplex` rows, λ ≥ 0 on the rest

    With u = Jᵀw the gap is the worst of three: ‖u‖² − minᵢ⟨gᵢ,u⟩ over the simplex rows (without other rows it bounds
    ‖u − u*‖², up to the rounding of G) and |Σ λⱼ⟨hⱼ,u⟩|, both relative to the largest squared length of a row, and the
    deepest violation −⟨hⱼ,u⟩ relative to ‖hⱼ‖ times the largest length. With other rows it is a residual and no
    bound (‖u − u*‖² was seen to be 28 times as large), and it does not see what happens among gradients that are much
    shorter than the longest: `relative_gap` is a bound and does.

    Args:
      gram: G, shape `(T, T)`.
      weights: Shape `(T,)`, feasible.
      num_simplex: Number of simplex rows; all by default.

    Returns:
      A non-negative scalar; zero at the optimum, and zero when every gradient is zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.solvers import certificates
      >>> float(certificates.min_norm_gap(jnp.eye(2), jnp.array([1.0, 0.0])))
      1.0
      >>> float(certificates.min_norm_gap(jnp.eye(2), jnp.array([0.5, 0.5])))
      0.0

    References:
      Jaggi, "Revisiting Frank-Wolfe" (ICML 2013), for the simplex part, the Frank–Wolfe gap.
    """
    num_tasks = gram.shape[0]
    on_simplex = jnp.arange(num_tasks) < (num_tasks if num_simplex is None else num_simplex)
    lengths = row_norms(gram)
    unit = reciprocal(jnp.max(lengths))
    slope = dot(gram * unit * unit, weights)  # ⟨gᵢ,u⟩ / max‖g‖²
    dual = dot(weights, slope) - jnp.min(jnp.where(on_simplex, slope, jnp.inf))
    conflict = jnp.where(on_simplex, 0, -slope * reciprocal(lengths * unit))
    slackness = jnp.abs(jnp.sum(jnp.where(on_simplex, 0, weights * slope)))
    return jnp.maximum(jnp.maximum(dual, slackness), jnp.maximum(jnp.max(conflict), 0))


@jax.jit
def worst_alignment(gram: jax.Array, weights: jax.Array) -> jax.Array:
    """Bound from below the cosine of the direction u = Jᵀw with the task that it serves worst.

    What a user means by "no task is hurt": −⟨gᵢ,u⟩ is the rate at which the loss of task i falls.

    min_i (⟨gᵢ,u⟩ − errorᵢ)/(‖gᵢ‖‖u‖),  errorᵢ = ε‖gᵢ‖Σⱼ|wⱼ|‖gⱼ‖

    Args:
      gram: G, shape `(T, T)`, rounded to its own precision: with the error stated, an inner product may be off by
        ε‖gᵢ‖‖gⱼ‖. Products that come from longer sums in the same precision are off by more.
      weights: Shape `(T,)`.

    Returns:
      A scalar between −1 and 1. Zero gradients are left out. It is 0 if w = 0, and −1 if u is too short for its
      direction to be known, about √ε times the longest gradient in it.

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.solvers import certificates
      >>> opposed = jnp.array([[1.0, 0.0, 0.0], [0.0, 1e-8, -0.9e-8], [0.0, -0.9e-8, 1e-8]])
      >>> certificates.worst_alignment(opposed, jnp.array([0.0, 1.0, 0.0])).round(2)  # and conflict_gap is 9e-9
      Array(-0.9, dtype=float32)
    """
    view = _look(gram, weights)
    gains = _gains(view.scaled, view.z)
    least = jnp.min(jnp.where(view.present, (gains.slopes - gains.error) / gains.lengths, jnp.inf))
    # A longer u makes a negative cosine milder and a positive one smaller, so take the end that is worse.
    square = gains.square + jnp.where(least < 0, -1, 1).astype(gram.dtype) * gains.square_error
    cosine = jnp.where(square > 0, jnp.clip(least / jnp.sqrt(jnp.where(square > 0, square, 1)), -1, 1), -1)
    return jnp.where(view.scale > 0, cosine, 0)


@jax.jit
def relative_gap(gram: jax.Array, weights: jax.Array, num_simplex: int | None = None) -> jax.Array:
    """Bound how much longer than the optimum the direction of the mixed program is, relative to itself.

    Any d that hurts no auxiliary bounds the length of the optimum from below, by min ⟨gᵢ,d⟩/‖d‖ over the simplex rows.
    The bound takes d = u, or moves it until it gains at least the rounding error on every row that matters.

    (‖u‖² − ‖u*‖²)/‖u‖²  ≤  gap,   ‖u − u*‖² ≤ gap·‖u‖²

    Args:
      gram: G, shape `(T, T)`; as for `worst_alignment`.
      weights: Shape `(T,)`, feasible: the simplex rows' sum to one, none is negative.
      num_simplex: Number of simplex rows; all by default.

    Returns:
      A scalar between 0 and 1; zero if u = 0 because all weight is on zero gradients. One says that nothing is known:
      that u is about √ε times the longest gradient in it or shorter, or that no direction that the auxiliaries allow
      was found, as where some of them are opposed.

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.solvers import certificates
      >>> float(certificates.relative_gap(jnp.eye(2), jnp.array([0.5, 0.5]))) < 1e-6
      True
      >>> float(certificates.relative_gap(jnp.eye(2), jnp.array([1.0, 0.0]))) > 0.5
      True
    """
    view = _look(gram, weights)
    gains, on_simplex = _gains(view.scaled, view.z), _on_simplex(gram, num_simplex)
    missing, active = _missing(view, gains, _wanted(view, gains.square, on_simplex))
    # Gain as much more on every row as on the one that misses most: errors of G have no direction.
    toward = _restricted.factorize(view.scaled, active, _tiny(view.z)).solve(jnp.where(active, gains.lengths, 0))
    step = 1.25 * jnp.maximum(jnp.max(jnp.where(active, missing / gains.lengths, 0)), 0) * toward
    moved = _gains(view.scaled, view.z + jnp.where(jnp.all(jnp.isfinite(step)), step, 0))
    square = gains.square + gains.square_error
    gap = jnp.minimum(_bound(view, gains, square, on_simplex), _bound(view, moved, square, on_simplex))
    return jnp.where(view.scale > 0, gap, 0)


def relative_gap_on_root(
    gram: jax.Array, weights: jax.Array, root: jax.Array, rounding: jax.Array, num_simplex: int
) -> jax.Array:
    """Bound the same from a root of JJᵀ, which knows squares of lengths as well as J knows lengths.

    Args:
      gram: G, shape `(T, T)`, for lengths of rows only.
      weights: As in `relative_gap`.
      root: R, shape `(T, T)`, RRᵀ = JJᵀ up to the powers of two that bring the diagonal of G between one and four.
      rounding: How far a row of R may be off, relative to its length.
      num_simplex: Number of simplex rows.

    Returns:
      A scalar between 0 and 1, about 4·rounding of the longest gradient in the length of u.
    """
    view, on_simplex = _look(gram, weights), _on_simplex(gram, num_simplex)
    factors = tuple(_products.of_matrix(factor, _program.EXPONENT, _products.EXACT) for factor in (root.T, root))
    lengths = jnp.sqrt(jnp.diagonal(view.scaled))

    def repair(round, carried):
        """Gain on every row what it misses; rows without weight are looked at once the others are right."""
        high, low, gap, square, longest = carried
        gains = _gains_on_root(factors, lengths, rounding, view.z, high, low)
        square = jnp.where(round == 0, gains.square, square)
        longest = jnp.where(round == 0, gains.square + gains.square_error, longest)
        missing, short = _missing(view, gains, _wanted(view, square, on_simplex))
        active = view.present & ((view.z > 0) | (short & (round > 0)))
        factor = _restricted.factorize_root(root, active, _tiny(view.z) ** 2)
        high, error = _products.two_sum(high, factor.solve(jnp.where(active, missing + gains.error, 0)))
        return high, low + error, jnp.minimum(gap, _bound(view, gains, longest, on_simplex)), square, longest

    none = 0 * view.scale
    start = (0 * view.z, 0 * view.z, none + 1, none, none)
    gap = lax.fori_loop(0, NUM_REPAIRS + 1, repair, start)[2]
    return jnp.where(view.scale > 0, gap, 0)


def _on_simplex(gram, num_simplex):
    num_tasks = gram.shape[0]
    return jnp.arange(num_tasks) < (num_tasks if num_simplex is None else num_simplex)


def _wanted(view, square, on_simplex):
    """At the optimum every active row gains ‖u‖², or nothing if it is an auxiliary."""
    return jnp.where(on_simplex, square * view.unit * reciprocal(view.ratio), 0)


def _bound(view, gains, square, on_simplex):
    """Return 1 − ‖u*‖²/‖u‖² at most, as ‖u*‖ is at least min ⟨gᵢ,d⟩/‖d‖ for a d that hurts no auxiliary."""
    sure = gains.slopes - gains.error
    allowed = jnp.all(jnp.where(~on_simplex & view.present, sure >= 0, True))
    least = jnp.min(jnp.where(on_simplex, sure * view.ratio, jnp.inf)) / view.unit
    share = least * reciprocal(square) * least * reciprocal(gains.square + gains.own_error)
    return jnp.where(allowed & (least > 0), jnp.clip(1 - share, 0, 1), 1)


class OfRecord:
    """What a record of a step says in the units of its update; records take these properties from here."""

    @property
    def worst_alignment(self: Any) -> jax.Array | None:
        """A bound from below of the worst cosine ⟨gᵢ,u⟩/(‖gᵢ‖‖u‖), see `diagnostics.worst_alignment`.

        Returns:
          Shape `()`, after the leading axes of the record if it has any; None where it holds no Gram matrix.

        Example:
          >>> import jax.numpy as jnp, mtlgrad_jax as mtl
          >>> tx, task_grads = mtl.aggregate(lambda gram: jnp.ones(2), 2), jnp.array([[1.0, 0.0], [-2.0, 1.0]])
          >>> _, state = tx.update(task_grads, tx.init(jnp.zeros(2)))
          >>> state.worst_alignment.round(3)
          Array(-0.707, dtype=float32)
        """
        return _of(worst_alignment, self)

    @property
    def relative_gap(self: Any) -> jax.Array | None:
        """A bound of (‖u‖² − ‖u*‖²)/‖u‖², u* the shortest combination of all rows, see `diagnostics.relative_gap`.

        As far as `gram` tells: what `refine=True` finds on J is in `gap`. With primaries, pass it their number.

        Returns:
          As `worst_alignment`.

        Example:
          >>> import jax.numpy as jnp, mtlgrad_jax as mtl
          >>> tx = mtl.mgda(num_tasks=2)
          >>> _, state = tx.update(jnp.eye(2), tx.init(jnp.zeros(2)))
          >>> bool(state.relative_gap < 1e-5)
          True
        """
        return _of(relative_gap, self)


def _of(certificate, record):
    if record.gram is None:
        return None
    return jnp.vectorize(certificate, signature="(t,t),(t)->()")(record.gram, record.weights)


class _View(NamedTuple):
    """A direction u = Σ zᵢĝᵢ of gradients scaled by powers of two to lengths between one and two."""

    scaled: jax.Array  # (T, T)
    z: jax.Array  # (T,), largest magnitude one unless all are zero
    scale: jax.Array  # (), what was divided by, zero if u = 0
    unit: jax.Array  # (), the same, and one if u = 0
    ratio: jax.Array  # (T,), length of gᵢ in that of ĝᵢ and of the longest
    present: jax.Array  # (T,) bool


class _Gains(NamedTuple):
    slopes: jax.Array  # (T,), ⟨ĝᵢ,u⟩
    error: jax.Array  # (T,), how far they may be off
    square: jax.Array  # (), ‖u‖²
    square_error: jax.Array  # ()
    own_error: jax.Array  # (), the same where u need not be a combination of rows, but some direction
    lengths: jax.Array  # (T,), ‖ĝᵢ‖


def _look(gram, weights):
    scaled, units = round_lengths(gram)
    present = units > 0
    longest = jnp.min(jnp.where(present, units, jnp.inf))
    ratio = jnp.where(present, longest / jnp.where(present, units, 1), 0)
    z = jnp.where(present, weights * ratio, 0)
    scale = jnp.max(jnp.abs(z))
    unit = jnp.where(scale > 0, scale, 1)
    return _View(scaled, z / unit, scale, unit, ratio, present)


def _gains(scaled, z):
    eps = jnp.finfo(scaled.dtype).eps
    high, low = _products.product(_products.of_matrix(scaled, _program.EXPONENT), z)
    slopes, lengths = high + low, jnp.sqrt(jnp.diagonal(scaled))
    total = dot(jnp.abs(z), lengths)
    square_error = eps * total * total
    return _Gains(slopes, eps * lengths * total, dot(z, slopes), square_error, square_error, lengths)


def _gains_on_root(factors, lengths, rounding, *parts):
    """Of u = RᵀΣzₖ, which itself is exact; what is not known is how far rows are from those of R."""
    columns, rows = factors
    direction = _products.product_of_sum(columns, *parts)
    slopes, _ = _products.product_of_sum(rows, *direction)
    square = dot(direction[0], direction[0])
    length, off = jnp.sqrt(square), rounding * dot(jnp.abs(sum(parts)), lengths)
    return _Gains(slopes, rounding * lengths * length, square, off * (2 * length + off), 0 * off, lengths)


def _tiny(weights):
    return jnp.finfo(weights.dtype).eps.item() * weights.shape[0] ** 0.5


def _missing(view, gains, wanted):
    """Return what a direction gains less than what is wanted and the rounding error, and the rows that matter."""
    missing = wanted + gains.error - gains.slopes
    return missing, view.present & ((view.z > 0) | (missing + gains.error > 0))


def conflict_gap(gram: jax.Array, weights: jax.Array) -> jax.Array:
    """Measure the deepest conflict of the direction u = Jᵀw with any task.

    max_i (−⟨gᵢ,u⟩)₊ / (‖gᵢ‖·max‖g‖)

    Args:
      gram: G, shape `(T, T)`.
      weights: Shape `(T,)`.

    Returns:
      A non-negative scalar, in units of the largest gradient; zero if no task is hurt.

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.solvers import certificates
      >>> opposed = jnp.array([[1.0, -1.0], [-1.0, 4.0]])
      >>> float(certificates.conflict_gap(opposed, jnp.array([0.0, 1.0])))
      0.5
    """
    lengths = row_norms(gram)
    unit = reciprocal(jnp.max(lengths))
    slope = dot(gram * unit * unit, weights)
    return jnp.maximum(jnp.max(-slope * reciprocal(lengths * unit)), 0)


def nnls_gap(quadratic: jax.Array, linear: jax.Array, x: jax.Array) -> jax.Array:
    """Measure the optimality gap of x ≥ 0 for min ½xᵀQx + cᵀx.

    With y = Qx + c, dᵢ = √Qᵢᵢ and s = maxᵢ|cᵢ|/dᵢ: the worst of −yᵢ/(dᵢs) and |xᵀy|/s².

    Args:
      quadratic: Q, shape `(n, n)`.
      linear: c, shape `(n,)`.
      x: Shape `(n,)`, non-negative.

    Returns:
      A non-negative scalar; infinite if the program is unbounded (Qᵢᵢ = 0 with cᵢ < 0).

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.solvers import certificates
      >>> float(certificates.nnls_gap(jnp.eye(1), jnp.array([-1.0]), jnp.array([1.0])))
      0.0
    """
    lengths = row_norms(quadratic)
    inverse = reciprocal(lengths)
    unit = reciprocal(jnp.max(jnp.abs(linear) * inverse))
    slope = (dot(quadratic * inverse[:, None] * inverse[None, :], lengths * x) + linear * inverse) * unit
    slackness = jnp.abs(dot(lengths * x * unit, slope))
    unbounded = jnp.any((lengths == 0) & (linear < 0))
    worst = jnp.maximum(jnp.maximum(jnp.max(-slope), slackness), 0)
    return jnp.where(unbounded, jnp.inf, worst)
