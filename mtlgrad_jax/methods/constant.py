"""Fixed weights, chosen by hand."""

from collections.abc import Callable
from functools import partial, wraps
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram
from mtlgrad_jax.ground.presence import only
from mtlgrad_jax.methods._preference import check_nonnegative
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, PerTask, Weights, without_gram

CLAIMS = Claims(
    "fixed weights",
    keeps="LZF",
    sums_to="Σw",
    costs="–",
    options=lambda num_tasks: {"weights": tuple(range(1, num_tasks + 1))},
)


@without_gram
def weights(gram: Gram, *, weights: PerTask, present: jax.Array | None = None) -> Weights:
    """Weigh tasks by fixed numbers.

    Linear scalarisation: gradient descent on Σ wᵢLᵢ. So a training can be finished by L-BFGS with the weights that
    another method ended with: with the direction Jᵀw goes the value Σ wᵢLᵢ, and w must not change any more, as the line
    search and the memory compare steps. `weighted = lambda params: losses_fn(params) @ weights` is then all that
    `optax.value_and_grad_from_state` and `optax.lbfgs` are given (`finish` in `benchmarks/pinn.py`).

    Args:
      gram: G = JJᵀ, shape `(T, T)`; only its shape matters.
      weights: w, shape `(T,)`.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`; the weights sum to what was passed.

    Raises:
      ValueError: If `weights` is not of shape `(T,)` or negative.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.weightings.constant(jnp.eye(2), weights=(1.0, 0.1))
      Array([1. , 0.1], dtype=float32)
    """
    num_tasks = check_gram(gram)
    fixed = jnp.asarray(weights, gram.dtype)
    if fixed.shape != (num_tasks,):
        raise ValueError(f"expected weights of shape ({num_tasks},), one number per task, got {fixed.shape}.")
    return only(check_nonnegative(fixed, "weights", weights), present)


P = ParamSpec("P")
R = TypeVar("R")


def _named_weights(factory: Callable[P, R]) -> Callable[P, R]:
    """Explain to who passes the weights first what Python would call two values for `num_tasks`."""

    @wraps(factory)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if args and not isinstance(args[0], int | None):
            raise ValueError(
                f"constant expected num_tasks or nothing before its keywords, got {type(args[0]).__name__}; name the "
                "weights, as in mtl.constant(weights=(0.8, 0.2))."
            )
        return factory(*args, **kwargs)

    return call


@_named_weights
def constant(
    num_tasks: int | None = None,
    *,
    weights: PerTask,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow a combination of the task gradients with fixed weights.

    Args:
      num_tasks: T, see `aggregate`.
      weights: w, shape `(T,)`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients.

    Raises:
      ValueError: If the weights are passed in the place of `num_tasks`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.constant(2, weights=(1.0, 0.1))
      >>> update, state = tx.update(jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), tx.init(jnp.zeros(3)))
      >>> update.shape, state.weights.shape
      ((3,), (2,))
    """
    return aggregate(partial(_weights, weights=weights), num_tasks, axis_name=axis_name, nonfinite=nonfinite)


_weights = weights  # an option of the factory has the name of the function above
