"""One training, of all seeds at once: the same split, initial values and batches whoever takes the step.

The program of a method holds nothing but steps: networks and batches are drawn before and judged after it, by programs
that all methods share. Compiling is what a study of so many short trainings spends most of its time on.
"""

import time
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import mtlgrad_jax as mtl

NUM_RECORDS = 20


class Run(NamedTuple):
    """What is kept of a training, NumPy."""

    scores: np.ndarray  # (..., records, T), what is chosen by
    errors: np.ndarray  # (..., records, T or 1), what is judged by
    seconds: float  # of all cores together, per step and all seeds


class Course:
    """A problem with the samples, initial values and batches of all seeds."""

    def __init__(self, problem, seeds, num_steps, num_trials=0):
        self.num_trials, self._plain_program = num_trials, None
        self.num_tasks, self.num_steps = len(problem.tasks), num_steps // NUM_RECORDS * NUM_RECORDS
        stack = partial(jax.tree.map, lambda *rows: jnp.stack([jnp.asarray(row) for row in rows]))
        self.samples = stack(*map(problem.sample, seeds))
        inits = [ravel_pytree(problem.init(seed)) for seed in seeds]
        self.params, unravel = stack(*(flat for flat, _ in inits)), inits[0][1]
        self.batches, self.second_batches = (
            stack(*(self._batches(problem, (seed, k)) for seed in seeds)) for k in (0, 1)
        )
        self.losses = lambda params, batch, sample: problem.losses(unravel(params), batch, sample)
        judge = lambda params, sample: tuple(f(unravel(params), sample) for f in (problem.score, problem.errors))
        self._judge = jax.jit(lambda params: jax.vmap(jax.vmap(judge, (0, None)))(params, self.samples))

    def _batches(self, problem, seed):
        batches = problem.batches(np.random.default_rng(seed), self.num_steps)
        return jax.tree.map(lambda array: array.reshape(NUM_RECORDS, -1, *array.shape[1:]), batches)

    def plain(self, weights: Any, rate: float) -> Run:
        """Train with Adam on a sum of the losses with these weights, shape `(T,)`, one backward pass per step."""
        return self._judged(*self._plain(weights, rate))

    def method(self, tx: optax.GradientTransformationExtraArgs, *, one_per_step: bool = False) -> Run:
        """Train with a transformation of stacked gradients."""
        make = lambda: (tx, partial(_method_step, self.losses, tx, one_per_step))
        return self._judged(*self._run(self._compiled(make, ()), ()))

    def grams(self, weights: Any, rate: float) -> np.ndarray:
        """Train as `plain` does and return JJᵀ at the networks that are kept, shape `(seeds, records, T, T)`."""

        def gram(params, batch, sample):
            rows = mtl.task_value_and_grad(self.losses)(params, batch, sample)[1]
            return rows @ rows.T

        firsts = jax.tree.map(lambda batches: batches[:, :, 0], self.batches)
        history, _ = self._plain(weights, rate)
        return np.asarray(jax.jit(jax.vmap(jax.vmap(gram, (0, 0, None))))(history, firsts, self.samples))

    def _plain(self, weights, rate):
        args = jnp.asarray(weights, jnp.float32), jnp.asarray(rate, jnp.float32)
        if self._plain_program is None:
            self._plain_program = self._compiled(_plain_step(self.losses), args)
        return self._run(self._plain_program, args)

    def _compiled(self, make, args):
        def train(params, sample, batches, second_batches, *args):
            tx, take = make(*args)

            def step(carry, inputs):
                params, state = carry
                updates, state = take(params, state, sample, *inputs)
                return (optax.apply_updates(params, updates), state), None

            def chapter(carry, inputs):
                carry, _ = jax.lax.scan(step, carry, inputs)
                return carry, carry[0]

            turns = jnp.arange(self.num_steps).reshape(NUM_RECORDS, -1)  # whose turn it is, for one task per step
            return jax.lax.scan(chapter, (params, tx.init(params)), (turns, batches, second_batches))[1]

        program = jax.jit(jax.vmap(train, (0, 0, 0, 0, *(None for _ in args))))
        return program.lower(self.params, self.samples, self.batches, self.second_batches, *args).compile()

    def _run(self, program, args):
        """Run, and time in seconds of the processor, which other work on the machine hardly changes."""
        start = time.process_time()
        args = self.params, self.samples, self.batches, self.second_batches, *args
        history = jax.block_until_ready(program(*args))
        return history, (time.process_time() - start) / self.num_steps

    def _judged(self, history, seconds):
        scores, errors = map(np.asarray, jax.device_get(self._judge(history)))
        return Run(scores, errors, seconds)


def _plain_step(losses_fn):
    def make(weights, rate):
        tx = optax.adam(rate)

        def take(params, state, sample, turn, batch, second_batch):
            grads = jax.grad(lambda params: jnp.sum(weights * losses_fn(params, batch, sample)))(params)
            return tx.update(grads, state, params)

        return tx, take

    return make


def _method_step(losses_fn, tx, one_per_step, params, state, sample, turn, batch, second_batch):
    value_and_grad = mtl.task_value_and_grad(losses_fn)
    losses, rows = value_and_grad(params, batch, sample)
    if one_per_step:
        return tx.update(jax.tree.map(lambda rows: rows[turn % len(losses)], rows), state, params)
    _, second_rows = value_and_grad(params, second_batch, sample)  # compiled only if the method looks at it
    return tx.update(rows, state, params, losses=losses, second_task_grads=second_rows)
