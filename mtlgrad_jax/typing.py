"""The architecture on one page: what flows between the folders.

    losses ──► J ──gram──► G = JJᵀ ──weighting──► w ──combine──► u = Jᵀw ──► optax

A *Jacobian* holds J and answers `gram()`, `combine(w)` and `push(v)`. A *weighting* maps G to w. A *solver* is the
small convex program inside a weighting, and returns its answer with a certificate. A *method* is a weighting with what
a step wants to know of it, and `step.take` is that step, whatever holds J and whatever weighs it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
from jax.typing import ArrayLike

from mtlgrad_jax.ground.extras import Picking, picking_extras
from mtlgrad_jax.ground.meshes import AxisName as AxisName  # of a mesh, over which leaves are split in `shard_map`

Gram = jax.Array  # (T, T), float32 or float64
Weights = jax.Array  # (T,), same dtype
PyTree = Any
PerTask = ArrayLike | Sequence[float]  # one number per task, of JAX, NumPy or Python, or one for all
Nonfinite = Literal["propagate", "skip", "drop_task"]


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


Weighting = Callable[..., Weights]
"""A method without memory: a function of G, and of whatever else it names.

Every further parameter that it names is an extra, handed to it at every step: `losses`, `log2_scale` (k, of a G of
2⁻ᵏJ), `present` (which tasks take part), `cross_gram` (J₁J₂ᵀ of two batches, in the same unit), or any keyword of the
user's own.
"""


class Rest(NamedTuple):
    """A step with the weights of an earlier one."""

    is_due: jax.Array  # () bool, whether G is needed after all
    gram: Gram  # (T, T), of the earlier step
    log2_scale: jax.Array  # () int32
    weights: Weights  # (T,)
    state: PyTree  # after the step


class StatefulWeighting(NamedTuple):
    """A method with memory, a pair of pure functions like an Optax transformation."""

    init: Callable[[int], PyTree]  # num_tasks -> state
    update: Callable[..., tuple[Weights, PyTree]]  # (gram, state, **extras) -> (weights, state)
    needs_num_tasks: bool = True  # false if `init` makes the same state for every T, as for a random key
    reads_gram: bool = True  # false if G is asked for its shape only: then none is computed, and `gram` is all zero
    rest: Callable[..., Rest] | None = None  # (state, **extras) -> what a step does that can be taken without G


class RowMethod(NamedTuple):
    """A method that a Gram matrix is not enough for.

    It works coordinate by coordinate or remembers gradients, so it is given J and returns the update itself.
    The weights are those on the rows that it combined, or None if its update is no combination of rows. It may name
    `axis_name` among its extras, to sum over the devices that a leaf is split over.
    """

    init: Callable[[int | None, PyTree], PyTree]  # (num_tasks, params) -> state
    update: Callable[..., tuple[PyTree, Weights | None, PyTree]]  # (J, state, **extras) -> (u, weights, state)
    needs_num_tasks: bool = True


SomeWeighting = TypeVar("SomeWeighting", bound=Weighting)


def without_gram(weighting: SomeWeighting) -> SomeWeighting:
    """Mark a weighting without memory that asks G for its shape only, so that no step computes one for it.

    Args:
      weighting: A function `(gram, **extras) -> weights`.

    Returns:
      The same function.
    """
    weighting.reads_gram = False  # pyright: ignore[reportFunctionMemberAccess]
    return weighting


class Method(NamedTuple):
    """A weighting, or a method on rows, with its evidence and its groups; a bare one has the defaults."""

    weighting: Weighting | StatefulWeighting | RowMethod
    certificate: Callable[..., jax.Array] | None = None  # (gram, weights) -> the record's `gap`; None: deepest conflict
    num_primary: int | None = None  # leading rows that stand in for each other; None: all rows do
    refine: Callable[..., Solution] | None = None  # (gram, weights, products) -> w and `gap`, `solvers.refine`


class StepRecord(NamedTuple):
    """What the last step does to the tasks, Δ being the updates with the sign turned; zero before the first."""

    cosines_before: jax.Array  # (T,), cos(gᵢ, Δ) of the inner optimiser's step
    cosines_after: jax.Array  # (T,), cos(gᵢ, Δ′) of the step that is taken
    multipliers: jax.Array  # (T,), x ≥ 0, zero where a task did not object
    certificate: jax.Array  # (), deepest violation left, relative to ‖gᵢ‖‖Δ‖; infinite if there was no telling


@runtime_checkable
class Jacobian(Protocol):
    """A way to hold J without promising to store it.

    One whose rows are gradients at a representation, not at the parameters, may offer them to methods that work on rows
    and remember none: `rows()`, a `jacobians.stacked.Stacked`, `representation`, and `pull(update, keep=)` to the
    parameters.
    """

    def gram(self) -> Gram: ...

    def scaled_gram(self) -> tuple[Gram, jax.Array]: ...  # that of 2⁻ᵏJ, and k: zero unless squares leave the range

    def combine(self, weights: Weights, *, keep: jax.Array | None = None) -> PyTree: ...  # keep: (T,) rows that count

    def push(self, direction: PyTree) -> jax.Array: ...  # Jv, shape (T,), of a tree like the parameters


PROMISES = {
    "C": "hurts no task: ⟨gᵢ,u⟩ ≥ 0 for every i",
    "A": "hurts no auxiliary, and follows a primary that nothing opposes exactly",
    "P": "treats tasks alike: relabelling them relabels the weights",
    "p": "the same where the lengths of gradients lie within one decade",
    "L": "linear in the length of each gradient",
    "Z": "zero only where a combination with all weights positive vanishes",
    "S": "of a method on rows: stays in the span of the rows that it has seen",
    "F": "follows tasks that agree: u is a positive multiple of their common gradient",
}
NEEDS = {
    "R": "rows of J",
    "L": "losses",
    "S": "state, and so the number of tasks",
    "K": "a random key",
    "X": "gradients of a second batch",
    "O": "the gradient of one task per step in place of J",
}


class Claims(NamedTuple):
    """What a method says of itself; the catalogue, and every test that is asked of all methods, derives from it."""

    follows: str  # in a few words
    keeps: str  # letters of PROMISES
    sums_to: str  # the weights, when all tasks agree on a gradient g and a loss L: in T, ‖g‖, L and its options
    costs: str  # besides reading J twice
    needs: str = ""  # letters of NEEDS, besides G
    degree: float | None = 0  # the update of sJ is s^(1 + degree) times that of J; None: a step size has units
    min_tasks: int = 1
    max_tasks: int | None = None
    options: Callable[[int], Mapping[str, Any]] = lambda num_tasks: {}  # with which it is asked, from T
    variants: Mapping[str, Mapping[str, Any]] | None = None  # other options, with the claims that change


def as_stateful(weighting: Weighting | StatefulWeighting) -> StatefulWeighting:
    """Return a weighting as an `(init, update)` pair whose update takes any extras and passes on those it names.

    Args:
      weighting: With memory or without.

    Returns:
      A `StatefulWeighting`; the state of a weighting without memory is empty.
    """
    if isinstance(weighting, StatefulWeighting):
        return weighting._replace(update=picking_extras(weighting.update, 2))
    weigh = picking_extras(weighting, 1)
    update = Picking(lambda gram, state, **extras: (weigh(gram, **extras), state), weigh.named, weigh.takes_all)
    function = weighting.func if isinstance(weighting, partial) else weighting
    reads_gram = getattr(function, "reads_gram", True)
    return StatefulWeighting(lambda num_tasks: (), update, needs_num_tasks=False, reads_gram=reads_gram)
