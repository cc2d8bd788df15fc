"""Losses, direction and evidence in one call, for a training loop of one's own."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax

from mtlgrad_jax import jacobians, step
from mtlgrad_jax.jacobians import WAYS, Way
from mtlgrad_jax.solvers import certificates
from mtlgrad_jax.typing import (
    Gram,
    Jacobian,
    Method,
    Nonfinite,
    PyTree,
    RowMethod,
    StatefulWeighting,
    Weighting,
    Weights,
)


class DescentInfo(NamedTuple):
    """How a direction came about."""

    gram: Gram | None  # (T, T), JJᵀ / 4^log2_scale; None for a method that does not read it
    log2_scale: jax.Array  # () int32, zero for ordinary gradients
    weights: Weights  # (T,)
    gap: jax.Array | None  # (), the method's certificate, `solvers.certificates.conflict_gap` for a bare weighting
    memory: PyTree  # of a method that has one, for the next call; () without
    finite: jax.Array  # (T,) bool, whether the gradient of a task was finite

    worst_alignment = certificates.OfRecord.worst_alignment
    relative_gap = certificates.OfRecord.relative_gap


def descent_direction(
    losses_fn: Callable[..., Any] | Sequence[Callable[..., Any]] | Mapping[str, Callable[..., Any]],
    params: PyTree,
    weighting: Weighting | StatefulWeighting | RowMethod | Method,
    *args: Any,
    method: Way | Callable[..., tuple[Any, Jacobian]] = "stacked",
    memory: PyTree | None = None,
    has_aux: bool = False,
    nonfinite: Nonfinite = "propagate",
    **extras: Any,
) -> tuple[Any, PyTree, DescentInfo]:
    """Evaluate the losses and combine their gradients, in the way that suits the memory.

    The direction takes the place of the gradient in any Optax optimiser. All ways to hold J give the same one, to
    rounding, but for the shared encoder's, which weighs at the representation.

    u = Jᵀw,  w = weighting(JJᵀ)

    Args:
      losses_fn: `losses_fn(params, *args)` returning losses of shape `(T,)`, or a tuple, list or dict of T
        scalars; with `has_aux`, a pair of these and anything. For `"per_example"` the loss of one example, for
        `"shared_encoder"` a pair `(encoder_fn, heads_fn)`, for `"separate"` one function per task.
      params: Any pytree.
      weighting: A function of a Gram matrix such as `mtl.weightings.mgda`, or anything else that `aggregate` takes.
      *args: Handed to `losses_fn`; for `"per_example"` and `"separate"` the examples or batches.
      method: How J is held, the name of a module of `jacobians`: `"stacked"` holds T gradients; `"matrix_free"` one,
        at about the same speed. Or a function with the signature of that module's `linearize`, for instance a
        `functools.partial` of it with other options.
      memory: What `info.memory` was after the last call, or that of a method that has just begun, the default.
      has_aux: Whether `losses_fn` returns auxiliary data too.
      nonfinite: What to do when a task's gradient is not finite, see `aggregate`.
      **extras: Handed to the method if it names them; it always gets `losses` and `log2_scale`. `present`, booleans of
        shape `(T,)`, tells which tasks take part.

    Returns:
      `(losses, update, info)`, or `((losses, aux), update, info)`: losses `(T,)`, u like `params`, and a
      `DescentInfo`.

    Raises:
      ValueError: If `method` is unknown or does not hold what the weighting needs, or as they say themselves.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
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
    weigher = step.ready(weighting)
    method = method if weigher.reads_gram and weigher.rest is None else _lazy(method)
    value, jac = _linearize(method, losses_fn, params, args, has_aux)
    losses = value[0] if has_aux else value
    memory = weigher.init(losses.shape[0], params) if memory is None else memory
    taken = step.take(weigher, jac, memory, nonfinite=nonfinite, **extras, losses=losses)
    info = DescentInfo(taken.gram, taken.log2_scale, taken.weights, taken.gap, taken.memory, taken.finite)
    return value, taken.update, info


def _lazy(method):
    """Return the way that computes no gradient of a task before it is asked for the Gram matrix."""
    return partial(jacobians.matrix_free.linearize, mode="rows", chunk_size=None) if method == "stacked" else method


def _linearize(method, losses_fn, params, args, has_aux):
    if isinstance(method, str) and method not in WAYS:
        raise ValueError(f"expected method to be one of {', '.join(WAYS)} or a function, got {method!r}.")
    linearize = getattr(jacobians, WAYS[method]).linearize if isinstance(method, str) else method
    functions = losses_fn if isinstance(losses_fn, tuple) else (losses_fn,)
    options = {"has_aux": has_aux} if "has_aux" in inspect.signature(linearize).parameters else {}
    if has_aux and not options:
        raise ValueError(f"expected has_aux=False for method={method!r}, whose losses come alone, got True.")
    return linearize(*functions, params, *args, **options)
