"""One training, of all seeds at once: the same split, initial values and batches whoever takes the step.

Compiling is what a study of so many short trainings spends most of its time on. So a step is two programs: one per
problem, from parameters to losses and rows of J, and one per method, from rows to parameters, which serves all problems
with as many tasks; parameters are one vector, which ends in as many zeros as make all problems alike. The guard is a
third one, which is handed the update that a method has made and so serves all methods.
"""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import mtlgrad_jax as mtl
from benchmarks.does_it_help import contestants

NUM_RECORDS = 20
NUM_COLUMNS = 12_288


class Run(NamedTuple):
    """What is kept of a training, NumPy."""

    scores: np.ndarray  # (seeds, records, T), what is chosen by
    errors: np.ndarray  # (seeds, records, T or 1), what is judged by
    seconds: float  # of all cores together, per step and all seeds


class Course:
    """A problem with the samples, initial values and batches of all seeds."""

    def __init__(self, problem, seeds, num_steps, num_trials=0):
        self.num_trials, self.num_tasks = num_trials, len(problem.tasks)
        self.num_steps = num_steps // NUM_RECORDS * NUM_RECORDS
        self.samples = _stack(*map(problem.sample, seeds))
        flats, unravels = zip(*(ravel_pytree(problem.init(seed)) for seed in seeds), strict=True)
        self.num_params, unravel = len(flats[0]), lambda params: unravels[0](params[: len(flats[0])])
        self.params = _stack(*(jnp.pad(flat, (0, NUM_COLUMNS - len(flat))) for flat in flats))
        self.batches, self.second_batches = (self._batches(problem, seeds, which) for which in (0, 1))
        losses = lambda params, batch, sample: problem.losses(unravel(params), batch, sample)
        judge = lambda params, sample: (problem.score(unravel(params), sample), problem.errors(unravel(params), sample))

        def plain(params, state, batch, sample, weights, rate):
            grads = jax.grad(lambda params: jnp.sum(weights * losses(params, batch, sample)))(params)
            updates, state = optax.adam(rate).update(grads, state, params)
            return optax.apply_updates(params, updates), state

        self._judge = jax.jit(jax.vmap(jax.vmap(judge, (0, None))))
        self._plain = jax.jit(jax.vmap(plain, (0, 0, 0, 0, None, None)))
        self._rows = jax.jit(jax.vmap(mtl.task_value_and_grad(losses)))

    def _batches(self, problem, seeds, which):
        """Return the batches of all steps, (steps, seeds, ...)."""
        draws = [problem.batches(np.random.default_rng((seed, which)), self.num_steps) for seed in seeds]
        return jax.tree.map(lambda *arrays: np.stack(arrays, axis=1), *draws)

    def plain(self, weights: Any, rate: float) -> Run:
        """Train with Adam on a sum of the losses with these weights, shape `(T,)`, one backward pass per step."""
        return self._judged(*self._plain_history(weights, rate))

    def method(self, label: str, rate: float) -> Run:
        """Train with a method of `contestants`."""
        name = label.removeprefix(contestants.GUARD)
        init, update, two_batches = stepper(name, self.num_tasks)

        def step(params, state, turn):
            losses, rows = self._rows(params, _at(self.batches, turn), self.samples)
            second = self._rows(params, _at(self.second_batches, turn), self.samples)[1] if two_batches else None
            moved, updates, state = update(params, state, rows, second, losses, rate, turn % self.num_tasks)
            return moved if label == name else guard(self.num_tasks)(params, rows, updates), state

        return self._judged(*self._history(step, init(self.params)))

    def grams(self, weights: Any, rate: float) -> np.ndarray:
        """Train as `plain` does and return JJᵀ at the networks that are kept, shape `(records, seeds, T, T)`."""
        history, _ = self._plain_history(weights, rate)
        rows = [self._rows(params, _at(self.batches, turn), self.samples)[1] for turn, params in enumerate(history)]
        return np.stack([np.asarray(each, float) @ np.asarray(each, float).swapaxes(-1, -2) for each in rows])

    def _plain_history(self, weights, rate):
        weights, state = jnp.asarray(weights, jnp.float32), jax.jit(jax.vmap(optax.adam(rate).init))(self.params)
        step = lambda params, state, turn: self._plain(
            params, state, _at(self.batches, turn), self.samples, weights, rate
        )
        return self._history(step, state)

    def _history(self, step, state):
        """Return the networks that are kept, and the seconds of a step.

        They are the processor's, which other work on the machine hardly changes; what compiles does so in the first
        step, which is not counted.
        """
        params, kept = self.params, []
        for turn in range(self.num_steps):
            params, state = step(params, state, turn)
            if turn == 0:
                jax.block_until_ready(params)
                start = time.process_time()
            if (turn + 1) % (self.num_steps // NUM_RECORDS) == 0:
                kept.append(jax.block_until_ready(params))
        return kept, (time.process_time() - start) / (self.num_steps - 1)

    def _judged(self, history, seconds):
        scores, errors = jax.device_get(self._judge(jnp.stack(history, axis=1), self.samples))
        return Run(np.asarray(scores), np.asarray(errors), seconds)


@functools.cache
def stepper(name, num_tasks):
    """Return `init` and `update` of a method before Adam for all seeds, and whether it wants a second batch."""
    make = functools.partial(contestants.optimizer, name, num_tasks)
    needs = mtl.methods.claims()[name].needs

    def update(params, state, rows, second_rows, losses, rate, task):
        tx = make(rate)
        if "O" in needs:
            updates, state = tx.update(rows[task], state, params)
        else:
            extras = {} if second_rows is None else {"second_task_grads": second_rows}
            updates, state = tx.update(rows, state, params, losses=losses, **extras)
        return optax.apply_updates(params, updates), updates, state

    axes = (0, 0, 0, 0, 0, None, None)
    return jax.jit(jax.vmap(make(1.0).init)), jax.jit(jax.vmap(update, axes)), "X" in needs


@functools.cache
def guard(num_tasks):
    """Return the step of `mtl.guard` for all seeds: parameters, rows, the update made in; the next parameters out."""
    made = optax.GradientTransformationExtraArgs(lambda _: (), lambda _, state, params, *, made: (made, state))
    tx = mtl.guard(made, num_tasks)

    def step(params, rows, updates):
        return optax.apply_updates(params, tx.update(rows, tx.init(params), params, made=updates)[0])

    return jax.jit(jax.vmap(step))


def _stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


def _at(batches, turn):
    return jax.tree.map(lambda array: array[turn], batches)
