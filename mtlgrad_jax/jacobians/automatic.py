"""The way to hold J that a rule picks, in two sentences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mtlgrad_jax.jacobians import matrix_free, structured
from mtlgrad_jax.typing import Jacobian, PyTree

RULE = (
    "Layer by layer ('structured') if leaves that enter layers hold at least half of the parameters, or if the "
    "backward pass cannot be transposed. Otherwise one gradient at a time ('matrix_free')."
)


class Choice(NamedTuple):
    """A way to hold J, and what decided."""

    method: str  # a module of `jacobians` with `linearize`
    reason: str


def choose(
    losses_fn: Callable[..., Any],
    params: PyTree,
    *args: Any,
    has_aux: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
) -> Choice:
    """Pick the way to hold J by `RULE`, which traces the losses and computes nothing.

    Layer by layer (`structured`) if leaves that enter layers hold at least half of the parameters, or if the backward
    pass cannot be transposed; otherwise one gradient at a time (`matrix_free`).

    Args:
      losses_fn: As in `structured.linearize`.
      params: Any pytree.
      *args: Handed to `losses_fn`.
      has_aux: Whether `losses_fn` returns auxiliary data too.
      axis_name: As in `structured.linearize`.

    Returns:
      The method by name, and why.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> x = jnp.ones((2, 3))
      >>> mtl.jacobians.automatic.choose(lambda params: jnp.sum(x @ params, axis=0), jnp.ones((3, 2)))
      Choice(method='structured', reason='6 of 6 parameters are in leaves that enter layers')
      >>> mtl.jacobians.automatic.choose(lambda params: params**2, jnp.ones(2)).method
      'matrix_free'
    """

    def linearize(module):
        return module.linearize(losses_fn, params, *args, has_aux=has_aux, axis_name=axis_name)[1]

    plan = _while_tracing(lambda: linearize(structured).plan)
    inside, total = plan.count()
    shares = f"{inside} of {total} parameters are in leaves that enter layers"
    if 2 * inside >= total:
        return Choice("structured", shares)
    try:
        _while_tracing(lambda: linearize(matrix_free).gram())
    except ValueError as error:
        if "transpose" not in str(error):
            raise
        return Choice("structured", f"{shares}, and the backward pass cannot be transposed")
    return Choice("matrix_free", shares)


def linearize(
    losses_fn: Callable[..., Any],
    params: PyTree,
    *args: Any,
    has_aux: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[Any, Jacobian]:
    """Evaluate the losses of all tasks and hold their Jacobian in the way that `choose` picks.

    Args:
      losses_fn: As in `structured.linearize`.
      params: Any pytree.
      *args: Handed to `losses_fn`.
      has_aux: Whether `losses_fn` returns auxiliary data too.
      axis_name: As in `structured.linearize`.

    Returns:
      `(losses, jac)`, or `((losses, aux), jac)`.

    Raises:
      ValueError: As `structured.linearize` and `matrix_free.linearize` say.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> losses, jac = mtl.jacobians.automatic.linearize(lambda params: params**2, jnp.array([1.0, 2.0]))
      >>> jac.gram()
      Array([[ 4.,  0.],
             [ 0., 16.]], dtype=float32)
    """
    options = {"has_aux": has_aux, "axis_name": axis_name}
    method = choose(losses_fn, params, *args, **options).method
    module = {"structured": structured, "matrix_free": matrix_free}[method]
    return module.linearize(losses_fn, params, *args, **options)


def _while_tracing(function):
    """Run a function on abstract values, and return what it returns if that is not made of arrays."""
    found = []

    def traced():
        result = function()
        found.append(None if isinstance(result, jax.Array) else result)

    jax.eval_shape(traced)
    return found[0]
