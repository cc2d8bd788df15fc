"""Who takes part: every method of the catalogue that applies to a problem, by what it claims of itself."""

import optax

import mtlgrad_jax as mtl
from mtlgrad_jax.typing import as_stateful

BASELINES = {
    "mean": "equal weights",
    "sum": "equal weights",
    "constant": "fixed weights, which the search tunes",
}
GUARD = "guarded "


def reason_against(name, claims, problem):
    """Return why a method does not apply to a problem, or nothing if it does."""
    num_tasks = len(problem.tasks)
    if name in BASELINES:
        return f"is a baseline: {BASELINES[name]}"
    if num_tasks < claims.min_tasks or num_tasks > (claims.max_tasks or num_tasks):
        most = claims.max_tasks or "more"
        return f"takes {claims.min_tasks} to {most} tasks"
    if "examples" in claims.follows:
        return "weighs examples, not tasks"
    if ("primar" in claims.follows or "auxiliar" in claims.follows) and problem.counts is None:
        return "needs a task that counts"
    return ""


def contestants(problem):
    """Return the names of the methods that apply, and why the other rows do not."""
    reasons = {name: reason_against(name, claims, problem) for name, claims in mtl.methods.claims().items()}
    names = [name for name, why in reasons.items() if not why]
    bare = {GUARD + name: "takes one gradient per step" for name in names if takes_one_per_step(name)}
    return names, {name: why for name, why in reasons.items() if why} | bare


def labels(names):
    """Return the rows of a problem: methods as chains, and behind the guard all that take a stack, and the sum."""
    stacks = [name for name in names if not takes_one_per_step(name)]
    return [*names, *(GUARD + name for name in ("sum", *stacks))]


def optimizer(name, num_tasks, rate):
    """Return a method at its defaults before Adam."""
    return optax.chain(getattr(mtl, name)(num_tasks), optax.adam(rate))


def takes_one_per_step(name):
    """Say whether a method takes one task's gradient per step in place of all."""
    return "O" in mtl.methods.claims()[name].needs


def reads_gram(name):
    """Say whether a method needs more than the losses."""
    module = getattr(mtl.methods, name)
    if hasattr(module, "weights"):
        return as_stateful(module.weights).reads_gram
    return not hasattr(module, "weighting") or module.weighting().reads_gram


def backward_passes(name, measured):
    """Return what a step costs in plain steps: what was measured, but one for methods that need no stack.

    `mtl.descent_direction` computes one backward pass where no Gram matrix is read, and who takes one task's gradient
    per step computes no other; here they are given a stack like all others, so that the batches are the same, and the
    time of that is not held against them.
    """
    return max(1.0, measured) if reads_gram(name) and not takes_one_per_step(name) else 1.0
