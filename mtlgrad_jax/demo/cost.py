"""What a step costs, in plain steps: one backward pass for the summed loss, and Adam."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtlgrad_jax.demo.problem import Problem
from mtlgrad_jax.demo.training import Start, Training

NUM_ROUNDS = 7
STEPS_A_ROUND = 40


def in_plain_steps(problem: Problem, trainings: list[Training], plain: Training, num_steps: int) -> list[float]:
    """Measure the time of the first steps, without what the demo measures in them.

    Args:
      problem: What is trained on.
      trainings: Runs before their first step.
      plain: What `plain_training` made.
      num_steps: Of a whole run; it is timed for no longer than this.

    Returns:
      For each run the median over rounds of its time over that of a plain step in the same round.
    """
    contestants, stop = [plain, *trainings], min(STEPS_A_ROUND, num_steps)
    seconds = [[_time(training, problem.data, stop) for training in contestants] for _ in range(NUM_ROUNDS)]
    return [float(ratio) for ratio in np.median([np.divide(row[1:], row[0]) for row in seconds], axis=0)]


def plain_training(problem: Problem, start: Start) -> Training:
    """Make what a step is compared with.

    Args:
      problem: What to train on.
      start: See `training.prepare`.

    Returns:
      A run before its first step.
    """
    optimizer = optax.adam(problem.learning_rate)

    def step(state, data, number):
        key, params, opt_state = state
        batch = problem.draw(data, jax.random.fold_in(key, number))
        gradient = jax.grad(lambda params: jnp.sum(problem.losses(params, batch)))(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return key, optax.apply_updates(params, updates), opt_state

    @jax.jit
    def advance(state, data, first, stop, measure):
        del measure  # nothing is measured
        one = jax.vmap(step, (0, 0, None))
        return jax.lax.fori_loop(first, stop, lambda number, state: one(state, data, number), state)

    return Training((start.keys, start.params, jax.vmap(optimizer.init)(start.params)), advance)


def _time(training, data, stop):
    started = time.perf_counter()
    jax.block_until_ready(training.advance(training.state, data, 0, stop, False))
    return time.perf_counter() - started
