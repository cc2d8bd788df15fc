"""SDMGrad: MGDA's program with a preferred direction, by projected steps from independent batches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mtlgrad_jax.ground.grams import check_memory, dot, reciprocal, row_norms
from mtlgrad_jax.ground.presence import everyone, fill_hull, number
from mtlgrad_jax.methods import _preference
from mtlgrad_jax.methods._extras import check_cross_gram
from mtlgrad_jax.methods._simplex import descend, restrict, resume
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, PerTask, Solver, StatefulWeighting

CLAIMS = Claims(
    "MGDA with a pull towards the mean",
    keeps="PF",
    needs="SX",
    sums_to="1",
    costs="second batch",
    options=lambda num_tasks: {"learning_rate": 0.5},  # at the authors' 10 rounding decides
)


class SdmgradState(NamedTuple):
    """What `sdmgrad` remembers."""

    weights: jax.Array  # (T,), on the simplex


def weighting(
    *,
    pull: float = 0.3,
    num_steps: int = 20,
    learning_rate: float = 10.0,
    momentum: float = 0.5,
    preference: PerTask | None = None,
    solver: Solver | None = None,
) -> StatefulWeighting:
    """Weigh tasks between MGDA's direction and a preferred one.

    A few projected gradient steps per call, from where the last call stopped, on

    min_{w∈Δ} ½‖Jᵀ(w + λp)‖²,   weights (w + λp)/(1 + λ)

    Args:
      pull: λ ≥ 0; zero for MGDA, large for the preferred direction Jᵀp.
      num_steps: Steps per call.
      learning_rate: Of these steps, in units of one over the mean squared length (the paper divides the
        gradients by their mean length), so that a common scale does not matter.
      momentum: Of these steps.
      preference: p, shape `(T,)`; 1/T each by default, the mean gradient.
      solver: `mtl.solvers.min_norm` for the solution of the program in place of the steps, at every call anew. It is a
        program of one batch, J₁ = J₂: neither memory nor a second one is needed, and the bias of one is back.

    Returns:
      A `typing.StatefulWeighting` that needs `cross_gram`, J₁J₂ᵀ of two independent batches. The weights sum
      to one (with a preference that does), whether tasks agree or not. If the cross Gram matrix is not finite,
      or has no positive diagonal entry, w stays as it is.

      The published steps are too long to converge. On Gaussian gradients of four tasks in twenty dimensions with
      J₁ = J₂ they end max |w − w*| = .5 from the solution in the median, .7 at worst; with a `learning_rate` of .5 that
      is 8e-5 and 3e-4, with the solver 6e-8 and 3e-7 (`benchmarks/sdmgrad_iteration.py`).

    Raises:
      ValueError: If `num_steps` is not positive.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.sdmgrad(pull=0.0, num_steps=200, learning_rate=0.5)
      >>> gram = jnp.diag(jnp.array([1.0, 4.0]))
      >>> weighting.update(gram, weighting.init(2), cross_gram=gram)[0]
      Array([0.8, 0.2], dtype=float32)

    References:
      Xiao et al., arXiv 2305.18409, algorithm 1; step size, momentum and scaling of its published code for
      reinforcement learning (LibMTL: a step size of 5).
    """
    if num_steps < 1:
        raise ValueError(f"expected num_steps of at least 1, got {num_steps}.")
    if solver is not None:
        return _of_one_batch(pull, preference, solver)

    def init(num_tasks):
        return SdmgradState(jnp.ones(num_tasks) / num_tasks)

    def update(gram, state, *, cross_gram=None, present=None):
        check_memory(state.weights, gram)
        cross_gram = check_cross_gram(cross_gram, gram, "sdmgrad", present)
        weights, total = restrict(state.weights.astype(gram.dtype), present)
        share = _preference.resolve(preference, gram, present)
        count = number(everyone(present, weights), gram.dtype)
        unit = reciprocal(jnp.sum(row_norms(cross_gram)) / count)
        scaled = cross_gram * unit * unit
        towards = jnp.asarray(pull, gram.dtype) * share

        def step(_, carry):
            weights, velocity = carry
            velocity = jnp.asarray(momentum, gram.dtype) * velocity + dot(scaled, weights + towards)
            return descend(weights, velocity, jnp.asarray(learning_rate, gram.dtype), present), velocity

        start = (weights + jnp.zeros_like(gram[0]), jnp.zeros_like(gram[0]))
        weights, _ = lax.fori_loop(0, num_steps, step, start)
        combined = (weights + towards) / (1 + jnp.asarray(pull, gram.dtype))
        return combined, SdmgradState(resume(state.weights, weights, total, present))

    return StatefulWeighting(init, update)


def _of_one_batch(pull, preference, solver):
    """Return the weighting that solves the program: the shortest convex combination of the rows gᵢ + λΣpⱼgⱼ."""

    def update(gram, state, *, present=None):
        towards = jnp.asarray(pull, gram.dtype) * _preference.resolve(preference, gram, present)
        gram, move = fill_hull(gram, present)
        shift = jnp.eye(gram.shape[0], dtype=gram.dtype) + towards[None, :]
        weights = move(solver(dot(dot(shift, gram), shift.T)).x)
        return (weights + towards) / (1 + jnp.asarray(pull, gram.dtype)), state

    return StatefulWeighting(lambda num_tasks: (), update, needs_num_tasks=False)


def sdmgrad(
    num_tasks: int | None = None,
    *,
    pull: float = 0.3,
    num_steps: int = 20,
    learning_rate: float = 10.0,
    momentum: float = 0.5,
    preference: PerTask | None = None,
    solver: Solver | None = None,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow a direction between MGDA's and a preferred one, without the bias of a single batch.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      pull: λ, towards the preferred direction.
      num_steps: Projected gradient steps per call.
      learning_rate: Of these steps, in units of one over the mean squared length.
      momentum: Of these steps.
      preference: p, shape `(T,)`; 1/T each by default.
      solver: `mtl.solvers.min_norm` for the exact solution, of one batch, in place of the steps, which by default end
        far from it.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients J₁ that needs `tx.update(..., second_task_grads=J₂)`, at
      the same parameters on an independent batch. The paper makes the update of a third,
      `third_task_grads=J₃`; without it the update is made of the mean of the two.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.sdmgrad(num_tasks=2, learning_rate=0.5), jnp.eye(2)
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(2)), second_task_grads=task_grads)
      >>> state.weights
      Array([0.5, 0.5], dtype=float32)
    """
    method = weighting(
        pull=pull,
        num_steps=num_steps,
        learning_rate=learning_rate,
        momentum=momentum,
        preference=preference,
        solver=solver,
    )
    return aggregate(method, num_tasks, axis_name=axis_name, nonfinite=nonfinite)
