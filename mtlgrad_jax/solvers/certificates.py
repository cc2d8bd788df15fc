"""How far a weight vector is from optimal, as a number without units."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import dot, reciprocal, row_norms


def min_norm_gap(gram: jax.Array, weights: jax.Array, num_simplex: int | None = None) -> jax.Array:
    """Measure the optimality gap of weights for the mixed program.

    min ½‖Σ αᵢgᵢ + Σ λⱼhⱼ‖²,  α ∈ Δ on the first `num_simplex` rows, λ ≥ 0 on the rest

    With u = Jᵀw the gap is the worst of three: ‖u‖² − minᵢ⟨gᵢ,u⟩ over the simplex rows (it bounds
    ‖u − u*‖²) and |Σ λⱼ⟨hⱼ,u⟩|, both relative to the largest squared length of a row, and the
    deepest violation −⟨hⱼ,u⟩ relative to ‖hⱼ‖ times the largest length.

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
