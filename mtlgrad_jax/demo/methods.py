"""The methods this package offers, found by looking at it."""

import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

import mtlgrad_jax as mtl
from mtlgrad_jax.typing import PyTree

DEFAULTS = {"equation": "nash_mtl", "parallel": "mgda", "primary": "primary_aux", "noisy": "primary_aux"}
"""From the name of a problem to the method meant for it."""


class UnsuitableMethod(ValueError):
    """A method that is unknown, or that cannot do the two-task job of this demo."""


def missing_arguments() -> dict[str, list[str]]:
    """Find the package's Optax factories, and what each wants besides the number of tasks.

    A factory is a public function with a parameter `num_tasks`. There is no list to keep: a method that is
    exported can be chosen.

    Returns:
      From the name of a factory to its arguments without a default; empty if it is ready to use.

    Example:
      >>> from mtlgrad_jax.demo import methods
      >>> needs = methods.missing_arguments()
      >>> needs["mgda"], needs["aggregate"]
      ([], ['weighting'])
    """
    found = {}
    for name in mtl.__all__:
        if inspect.isfunction(factory := getattr(mtl, name)):
            parameters = inspect.signature(factory).parameters
            if "num_tasks" in parameters:
                found[name] = [
                    other
                    for other, parameter in parameters.items()
                    if parameter.default is parameter.empty
                    and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
                    and other != "num_tasks"
                ]
    return found


def choices() -> list[str]:
    """Return the names of the methods that need no further arguments.

    Example:
      >>> from mtlgrad_jax.demo import methods
      >>> {"mgda", "primary_aux"} <= set(methods.choices())
      True
    """
    return sorted(name for name, missing in missing_arguments().items() if not missing)


def make(name: str) -> optax.GradientTransformationExtraArgs:
    """Make the transformation of a method for two tasks.

    Args:
      name: One of `choices()`.

    Returns:
      What comes first in the `optax.chain`.

    Raises:
      UnsuitableMethod: If there is no such method, or it needs an argument that only code can give.

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.demo import methods
      >>> methods.make("mgda").init(jnp.zeros(3)).weights
      Array([0., 0.], dtype=float32)
    """
    known = missing_arguments()
    if name not in known:
        raise UnsuitableMethod(f"unknown method {name!r}; choose from {', '.join(choices())}")
    if known[name]:
        raise UnsuitableMethod(
            f"{name!r} also needs {', '.join(known[name])}, which a command line cannot give; "
            f"choose from {', '.join(choices())}"
        )
    return optax.with_extra_args_support(getattr(mtl, name)(num_tasks=2))


class Recipe(NamedTuple):
    """What makes a step of two task gradients."""

    method: optax.GradientTransformationExtraArgs
    guarded: bool = False

    def optimizer(self, learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformationExtraArgs:
        """Return the Optax transformation from stacked task gradients to the step that is taken."""
        chain = optax.chain(self.method, _remember(), optax.adam(learning_rate))
        return mtl.guard(chain, num_tasks=2) if self.guarded else chain

    def direction(self, opt_state: PyTree) -> PyTree:
        """Return u, what the method handed to Adam in the last step."""
        return (opt_state.inner if self.guarded else opt_state)[1]


def summed() -> optax.GradientTransformationExtraArgs:
    """Make the baseline, the gradient of the summed loss, in the same shape as a method.

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.demo import methods
      >>> tx = methods.summed()
      >>> params = jnp.zeros(2)
      >>> tx.update(jnp.array([[1.0, 2.0], [3.0, 4.0]]), tx.init(params), params)[0]
      Array([4., 6.], dtype=float32)
    """
    return optax.with_extra_args_support(mtl.sum(num_tasks=2))


def _remember():
    """Pass an update through and keep it in the state, to be measured."""
    return optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda updates, state, params=None: (updates, updates),
    )
