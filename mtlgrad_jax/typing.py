"""The architecture on one page: what flows between the four folders.

    losses ──► J ──gram──► G = JJᵀ ──weighting──► w ──combine──► u = Jᵀw ──► optax

A *Jacobian* holds J and answers `gram()` and `combine(w)`. A *weighting* maps G to w. A *solver*
is the small convex program inside a weighting, and returns its answer with a certificate.
"""

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


@runtime_checkable
class Jacobian(Protocol):
    """A way to hold J without promising to store it."""

    def gram(self) -> Gram: ...

    def combine(self, weights: Weights) -> PyTree: ...


PER_STEP_EXTRAS = ("losses", "log2_scale")
