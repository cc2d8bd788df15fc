"""Losses, direction and evidence in one call, for a training loop of one's own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mtlgrad_jax.jacobians import matrix_free, stacked
from mtlgrad_jax.solvers.certificates import conflict_gap
from mtlgrad_jax.typing import Gram, Jacobian, PyTree, StatefulWeighting, Weighting, Weights, as_stateful

METHODS = {"stacked": stacked.linearize, "matrix_free": matrix_free.linearize}


class DescentInfo(NamedTuple):
    """How a direction came about."""

    gram: Gram  # (T, T), JJᵀ / 4^log2_scale
    log2_scale: jax.Array  # () int32, zero for ordinary gradients
    weights: Weights  # (T,)
    gap: jax.Array  # (), deepest conflict with a task, see `solvers.certificates.conflict_gap`
    memory: PyTree  # of a stateful weighting, for the next call; () without one


def descent_direction(
    losses_fn: Callable[..., Any],
    params: PyTree,
    weighting: Weighting | StatefulWeighting,
    *args: Any,
    method: str | Callable[..., tuple[Any, Jacobian]] = "stacked",
    memory: PyTree | None = None,
    has_aux: bool = False,
    **extras: Any,
) -> tuple[Any, PyTree, DescentInfo]:
    """Evaluate the losses and combine their gradients, in the way that suits the memory.

    The direction takes the place of the gradient in any Optax optimiser. All methods give the same one, to
    rounding.

    u = Jᵀw,  w = weighting(JJᵀ)

    Args:
      losses_fn: `losses_fn(params, *args)` returning losses of shape `(T,)`, or a tuple, list or dict of T
        scalars; with `has_aux`, a pair of these and anything.
      params: Any pytree.
      weighting: A function of a Gram matrix such as `mtl.weightings.mgda`, or a `typing.StatefulWeighting`.
      *args: Handed to `losses_fn`.
      method: `"stacked"` holds T gradients; `"matrix_free"` one, at about the same speed. Or a function with
        the signature of `jacobians.matrix_free.linearize`, for instance a `functools.partial` of it with
        other options.
      memory: What `info.memory` was after the last call, or `weighting.init(T)`, which is the default.
      has_aux: Whether `losses_fn` returns auxiliary data too.
      **extras: Handed to the weighting if it names them; it always gets `losses` and `log2_scale`.

    Returns:
      `(losses, update, info)`, or `((losses, aux), update, info)`: losses `(T,)`, u like `params`, and a
      `DescentInfo`. Gradients that are not finite propagate.

    Raises:
      ValueError: If `method` is unknown, or as `jacobians.matrix_free.linearize` and the weighting say.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> def losses_fn(params, centre):
      ...     return {"left": jnp.sum((params + centre) ** 2), "right": jnp.sum((params - centre) ** 2)}
      >>> params = jnp.array([1.0, 2.0])
      >>> tx = optax.sgd(0.25)
      >>> losses, update, info = mtl.descent_direction(
      ...     losses_fn, params, mtl.weightings.mgda, jnp.array([1.0, 0.0]), method="matrix_free"
      ... )
      >>> updates, _ = tx.update(update, tx.init(params), params)
      >>> losses, optax.apply_updates(params, updates)
      (Array([8., 4.], dtype=float32), Array([1., 1.], dtype=float32))
    """
    if isinstance(method, str) and method not in METHODS:
        raise ValueError(f"expected method to be one of {', '.join(METHODS)} or a function, got {method!r}.")
    linearize = METHODS[method] if isinstance(method, str) else method
    value, jac = linearize(losses_fn, params, *args, has_aux=has_aux)
    losses = value[0] if has_aux else value
    gram, log2_scale = jac.scaled_gram()
    stateful = as_stateful(weighting)
    memory = stateful.init(gram.shape[0]) if memory is None else memory
    weights, memory = stateful.update(gram, memory, **extras, losses=losses, log2_scale=log2_scale)
    info = DescentInfo(gram, log2_scale, weights, conflict_gap(gram, weights), memory)
    return value, jac.combine(weights), info
