"""One train step with an `optax.chain`, for several seeds at once, and what is measured on the way."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mtlgrad_jax as mtl
from mtlgrad_jax.demo.methods import Recipe, UnsuitableMethod
from mtlgrad_jax.demo.problem import Problem
from mtlgrad_jax.typing import PyTree

NUM_CHECKS = 30
CONFLICT = -mtl.diagnostics.resolution(jnp.dtype("float32"))
"""A cosine below this is a conflict."""


class Tally(NamedTuple):
    """What the steps so far did to the tasks on their own batches: numbers of steps, and the least cosines."""

    opposed: jax.Array  # () steps in which the two task gradients opposed each other
    hurt_by_direction: jax.Array  # () steps in which the direction u that the method gave raised a loss
    worst_of_direction: jax.Array  # ()
    hurt_by_step: jax.Array  # () the same of the step that was taken, behind Adam
    worst_of_step: jax.Array  # ()


class State(NamedTuple):
    """A run between two steps."""

    key: jax.Array  # of the batches
    scale: jax.Array  # (2,) what the losses are multiplied by, ones at first
    params: PyTree
    opt_state: PyTree
    tally: Tally


class Training(NamedTuple):
    """A run between two steps for all seeds, and how to go on."""

    state: PyTree  # leaves with a leading axis of seeds
    advance: Any  # jitted, (state, data, from step, to step, measure) -> state

    def compiled(self, problem: Problem) -> "Training":
        """Return the same with a compiled program, which takes seconds and leaves other threads their say."""
        return self._replace(advance=self.advance.lower(self.state, problem.data, 0, 1, True).compile())


class Start(NamedTuple):
    """What all runs on a problem have in common, compiled once; leaves have a leading axis of seeds."""

    keys: jax.Array  # of the batches
    params: PyTree
    losses: jax.Array  # (s, 2), of the first batch
    judge: Callable[[PyTree, PyTree], tuple[jax.Array, jax.Array]]  # (params, data) -> held-out losses, errors
    at_the_end: Callable[[PyTree, PyTree], tuple[jax.Array, jax.Array]]  # (params, data) -> Pareto gap, picture


class Run(NamedTuple):
    """What one run measured; s seeds."""

    checked_at: np.ndarray  # (c,) steps after which held-out data were looked at
    losses: np.ndarray  # (c, s, 2) on held-out data
    errors: np.ndarray  # (c, s, e) on held-out data
    tally: Tally  # leaves (s,), counts as shares of the steps
    pareto_gap: np.ndarray  # (s,) shortest convex combination of the task gradients over the longest, at the end
    shown: np.ndarray  # (s, …) what the picture is made of


def begin(problem: Problem, seeds: tuple[int, ...]) -> Start:
    """Draw one network per seed.

    Args:
      problem: What to train on.
      seeds: Each decides initial parameters and batches.

    Returns:
      What every run starts from, so that all see the same initial parameters and the same batches.
    """

    @jax.jit
    @jax.vmap
    def draw(key, data):
        init_key, batch_key = jax.random.split(key)
        params = problem.init(init_key)
        return batch_key, params, problem.losses(params, problem.draw(data, jax.random.fold_in(batch_key, 0)))

    def at_the_end(params, data):
        _, task_grads = problem.gradients(params, problem.everything(data))
        gram = mtl.jacobians.stacked.gram(task_grads)
        return mtl.diagnostics.stationarity(gram), problem.show(params, data)

    keys, params, losses = draw(jax.vmap(jax.random.key)(jnp.array(seeds)), problem.data)
    return Start(keys, params, losses, jax.jit(jax.vmap(problem.judge)), jax.jit(jax.vmap(at_the_end)))


def prepare(problem: Problem, recipe: Recipe, start: Start, num_steps: int) -> Training:
    """Make what trains one network per seed.

    Args:
      problem: What to train on.
      recipe: What makes a step of two task gradients.
      start: What `begin` drew.
      num_steps: Length of the run, over which the rate falls to zero as half a cosine.

    Returns:
      A run before its first step.

    Raises:
      UnsuitableMethod: If the method cannot work with what a train step hands to it.
    """
    optimizer = recipe.optimizer(optax.cosine_decay_schedule(problem.learning_rate, num_steps))

    def step(state, data, number, measure):
        key, scale, params, opt_state, tally = state
        batch = problem.draw(data, jax.random.fold_in(key, number))
        losses, task_grads = problem.gradients(params, batch)
        losses, task_grads = jax.tree.map(lambda rows: jax.vmap(jnp.multiply)(scale, rows), (losses, task_grads))
        updates, opt_state = optimizer.update(task_grads, opt_state, params, losses=losses)
        direction = recipe.direction(opt_state)
        tally = jax.lax.cond(measure, lambda: count(tally, task_grads, direction, updates), lambda: tally)
        return State(key, scale, optax.apply_updates(params, updates), opt_state, tally)

    @jax.jit
    def advance(state, data, first, stop, measure):
        one = jax.vmap(step, (0, 0, None, None))
        return jax.lax.fori_loop(first, stop, lambda number, state: one(state, data, number, measure), state)

    try:
        opt_state = jax.jit(jax.vmap(optimizer.init))(start.params)
        tally = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, len(start.losses)), nothing_yet())
        state = State(start.keys, jnp.ones_like(start.losses), start.params, opt_state, tally)
        jax.eval_shape(advance, state, problem.data, 0, 1, True)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UnsuitableMethod(f"it does not work with two tasks and this train step: {reason}") from error
    return Training(state, advance)


def finish(problem: Problem, start: Start, training: Training, num_steps: int, progress) -> Run:
    """Train to the end.

    Args:
      problem: What to train on.
      start: What `begin` drew.
      training: What `prepare` made.
      num_steps: Number of steps.
      progress: Has a method `update` that takes a number of steps done, `tqdm` for instance.

    Returns:
      The measurements.
    """
    state, checks = training.state, np.linspace(0, num_steps, min(num_steps, NUM_CHECKS) + 1).astype(int)
    judged = [start.judge(state.params, problem.data)]
    for first, stop in zip(checks[:-1], checks[1:], strict=True):
        state = training.advance(state, problem.data, int(first), int(stop), True)
        judged.append(jax.device_get(start.judge(state.params, problem.data)))
        progress.update(int(stop - first))
    losses, errors = (np.stack(values) for values in zip(*judged, strict=True))
    gap, shown = jax.device_get(start.at_the_end(state.params, problem.data))
    tally: Tally = jax.device_get(state.tally)
    counts = ("opposed", "hurt_by_direction", "hurt_by_step")
    shares = tally._replace(**{name: getattr(tally, name) / num_steps for name in counts})
    return Run(checks, losses, errors, shares, gap, shown)


def count(tally: Tally, task_grads: PyTree, direction: PyTree, updates: PyTree) -> Tally:
    """Add one step to the tally.

    Args:
      tally: Of the steps before.
      task_grads: Leaves `(2, *param_shape)`.
      direction: u, leaves `(*param_shape)`.
      updates: Δθ, leaves `(*param_shape)`.

    Returns:
      The new tally.

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.demo import training
      >>> rows, u = jnp.array([[4.0, 3.0], [-1.0, 0.0]]), jnp.array([0.0, 1.0])
      >>> training.count(training.Tally(0, 0, 1.0, 0, 1.0), rows, direction=u, updates=jnp.array([-1.0, 0.0]))
      Tally(opposed=Array(1, dtype=int32), hurt_by_direction=Array(0, dtype=int32),
            worst_of_direction=Array(0., dtype=float32), hurt_by_step=Array(1, dtype=int32),
            worst_of_step=Array(-1., dtype=float32))
    """
    between = mtl.diagnostics.cosines(mtl.jacobians.stacked.gram(task_grads))[0, 1]
    of_direction = jnp.min(mtl.diagnostics.step_cosines(task_grads, jax.tree.map(jnp.negative, direction)))
    of_step = jnp.min(mtl.diagnostics.step_cosines(task_grads, updates))
    return Tally(
        tally.opposed + (between < CONFLICT).astype(jnp.int32),
        tally.hurt_by_direction + (of_direction < CONFLICT).astype(jnp.int32),
        jnp.minimum(tally.worst_of_direction, of_direction),
        tally.hurt_by_step + (of_step < CONFLICT).astype(jnp.int32),
        jnp.minimum(tally.worst_of_step, of_step),
    )


def nothing_yet() -> Tally:
    """Return the tally before the first step."""
    none, best = jnp.zeros((), jnp.int32), jnp.ones(())
    return Tally(none, none, best, none, best)
