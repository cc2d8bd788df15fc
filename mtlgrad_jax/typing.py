"""The architecture on one page: what flows between the four folders.

    losses ──► J ──gram──► G = JJᵀ ──weighting──► w ──combine──► u = Jᵀw ──► optax

A *Jacobian* holds J and answers `gram()`, `combine(w)` and `push(v)`. A *weighting* maps G to w. A *solver*
is the small convex program inside a weighting, and returns its answer with a certificate.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

Gram = jax.Array  # (T, T), float32 or float64
Weights = jax.Array  # (T,), same dtype
PyTree = Any


class Solution(NamedTuple):
    """The answer of a solver and the evidence for it.

    `gap` is dimensionless: zero at the optimum, unchanged when every gradient is rescaled, and of
    the order of the rounding error of the Gram matrix when the answer is as good as it can be.
    """

    x: jax.Array  # (n,)
    gap: jax.Array  # ()
    num_steps: jax.Array  # () int32


class Solver(Protocol):
    """A program on a Gram matrix: simplex on the first `num_simplex` coordinates, orthant on the rest."""

    def __call__(self, gram: Gram, num_simplex: int | None = None) -> Solution: ...


class Weighting(Protocol):
    """A method without memory.

    `extras` are the keyword-only parameters that the method itself names (`losses`,
    `log2_scale`); a transformation hands over exactly those.
    """

    def __call__(self, gram: Gram, **extras: Any) -> Weights: ...


class StatefulWeighting(NamedTuple):
    """A method with memory, a pair of pure functions like an Optax transformation."""

    init: Callable[[int], PyTree]  # num_tasks -> state
    update: Callable[..., tuple[Weights, PyTree]]  # (gram, state, **extras) -> (weights, state)
    needs_num_tasks: bool = True  # false if `init` makes the same state for every T, as for a random key


class RowMethod(NamedTuple):
    """A method that a Gram matrix is not enough for.

    It works coordinate by coordinate or remembers gradients, so it is given J and returns the update itself.
    The weights are those on the rows that it combined, or None if its update is no combination of rows.
    """

    init: Callable[[int, PyTree], PyTree]  # (num_tasks, params) -> state
    update: Callable[..., tuple[PyTree, Weights | None, PyTree]]  # (J, state, **extras) -> (u, weights, state)
    needs_num_tasks: bool = True


class StepRecord(NamedTuple):
    """What the last step does to the tasks, Δ being the updates with the sign turned; zero before the first."""

    cosines_before: jax.Array  # (T,), cos(gᵢ, Δ) of the inner optimiser's step
    cosines_after: jax.Array  # (T,), cos(gᵢ, Δ′) of the step that is taken
    multipliers: jax.Array  # (T,), x ≥ 0, zero where a task did not object
    certificate: jax.Array  # (), deepest violation left, relative to ‖gᵢ‖‖Δ‖; infinite if there was no telling


@runtime_checkable
class Jacobian(Protocol):
    """A way to hold J without promising to store it."""

    def gram(self) -> Gram: ...

    def scaled_gram(self) -> tuple[Gram, jax.Array]: ...  # that of 2⁻ᵏJ, and k: zero unless squares leave the range

    def combine(self, weights: Weights) -> PyTree: ...  # Jᵀw

    def push(self, direction: PyTree) -> jax.Array: ...  # Jv, shape (T,), of a tree like the parameters


PER_STEP_EXTRAS = ("losses", "log2_scale", "cross_gram", "previous_batch_losses")


def as_stateful(weighting: Weighting | StatefulWeighting) -> StatefulWeighting:
    """Return a weighting as an `(init, update)` pair whose update takes all extras and passes on those it names."""
    if isinstance(weighting, StatefulWeighting):
        return weighting._replace(update=picking_extras(weighting.update))
    weigh = picking_extras(weighting)
    return StatefulWeighting(
        init=lambda num_tasks: (),
        update=lambda gram, state, **extras: (weigh(gram, **extras), state),
        needs_num_tasks=False,
    )


def picking_extras(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function be called with any extras: it is given those of PER_STEP_EXTRAS that it names."""
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    named = PER_STEP_EXTRAS if takes_all else tuple(name for name in PER_STEP_EXTRAS if name in parameters)
    return lambda *args, **extras: function(*args, **{name: extras[name] for name in named if name in extras})
