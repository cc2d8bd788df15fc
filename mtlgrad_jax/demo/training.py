"""One jitted train step with an `optax.chain`, and what is measured on the way."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mtlgrad_jax as mtl
from mtlgrad_jax.demo import methods, problems
from mtlgrad_jax.demo.network import TwoHeads
from mtlgrad_jax.demo.problems import Problem
from mtlgrad_jax.typing import PyTree

BATCH_SIZE = 64
LEARNING_RATE = 2e-3
NUM_CHECKS = 40


class Angles(NamedTuple):
    """Cosines between gradients over all parameters, in one step; zero where a vector is zero."""

    between_tasks: jax.Array  # ()
    summed: jax.Array  # (2,), each task with the summed gradient
    direction: jax.Array  # (2,), each task with the direction the optimiser was given


class Run(NamedTuple):
    """What one training run measured."""

    angles: Angles  # leaves with a leading axis of steps
    checked_at: np.ndarray  # (c,) steps after which the held-out images were looked at
    held_out_losses: np.ndarray  # (c, 2)
    hits: np.ndarray  # (n, 2) bool, held-out digits read rightly at the end
    shortest: float  # length of the shortest convex combination of the training gradients at the end
    longest: float  # length of the longest training gradient at the end


def train(
    problem: Problem,
    method: optax.GradientTransformationExtraArgs,
    *,
    num_steps: int,
    seed: int,
    progress: Callable = iter,
) -> Run:
    """Train the network once.

    Args:
      problem: What to train on.
      method: Maps stacked task gradients to a direction; Adam follows it.
      num_steps: Number of steps.
      seed: Decides the initial parameters and the batches.
      progress: Wraps the range of steps, `tqdm` for instance.

    Returns:
      The measurements. Two runs with one seed see the same initial parameters and the same batches.

    Raises:
      UnsuitableMethod: If the method cannot work with what this train step hands to it.
    """
    start_key, batch_key = jax.random.split(jax.random.key(seed))
    params = jax.jit(TwoHeads().init)(start_key, problem.held_out.canvases[:1])
    optimizer = optax.chain(method, _remember(), optax.adam(LEARNING_RATE))
    opt_state = optimizer.init(params)
    sources = jax.tree.map(jnp.asarray, problem.sources)
    held_out_losses = jax.jit(partial(problems.digit_losses, pairs=problem.held_out))

    @jax.jit
    def step(params, opt_state, number):
        batches = _draw(sources, jax.random.fold_in(batch_key, number))
        losses, task_grads = mtl.task_value_and_grad(problem.losses)(params, batches)
        updates, opt_state = optimizer.update(task_grads, opt_state, params, losses=losses)
        direction = cast(tuple, opt_state)[1]
        return optax.apply_updates(params, updates), opt_state, angles(task_grads, direction=direction)

    try:
        jax.eval_shape(step, params, opt_state, 0)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise methods.UnsuitableMethod(f"it does not work with two tasks and this train step: {reason}") from error

    record, checks = [], [(0, held_out_losses(params))]
    every = max(1, num_steps // NUM_CHECKS)
    for number in progress(range(num_steps)):
        params, opt_state, measured = step(params, opt_state, number)
        record.append(measured)
        if (number + 1) % every == 0 or number + 1 == num_steps:
            checks.append((number + 1, held_out_losses(params)))

    shortest, longest = jax.jit(_stationarity, static_argnums=0)(problem.losses, params, sources)
    return Run(
        angles=jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(record)),
        checked_at=np.array([number for number, _ in checks]),
        held_out_losses=np.stack([losses for _, losses in checks]),
        hits=np.asarray(jax.jit(problems.digit_hits)(params, problem.held_out)),
        shortest=float(shortest),
        longest=float(longest),
    )


def angles(task_grads: PyTree, direction: PyTree) -> Angles:
    """Measure the angles between two task gradients, their sum and a direction.

    Args:
      task_grads: Leaves `(2, *param_shape)`.
      direction: Leaves `(*param_shape)`.

    Returns:
      The cosines.

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.demo import training
      >>> found = training.angles(jnp.array([[3.0, 0.0], [0.0, 4.0]]), jnp.array([1.0, 0.0]))
      >>> found.summed, found.direction
      (Array([0.6, 0.8], dtype=float32), Array([1., 0.], dtype=float32))
    """
    rows = jax.tree.map(
        lambda grads, u: jnp.concatenate([grads, jnp.sum(grads, axis=0, keepdims=True), u[None]]),
        task_grads,
        direction,
    )
    cosines = mtl.diagnostics.cosines(mtl.jacobians.stacked.gram(rows))
    return Angles(between_tasks=cosines[0, 1], summed=cosines[:2, 2], direction=cosines[:2, 3])


def _remember():
    """Pass an update through and keep it in the state, to be measured."""
    return optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda updates, state, params=None: (updates, updates),
    )


def _draw(sources, key):
    """Draw one batch from every source."""
    keys = jax.random.split(key, len(sources))
    batches = []
    for pairs, source_key in zip(sources, keys, strict=True):
        rows = jax.random.randint(source_key, (BATCH_SIZE,), 0, len(pairs.labels))
        batches.append(jax.tree.map(lambda field, rows=rows: field[rows], pairs))
    return tuple(batches)


def _stationarity(losses_fn, params, sources):
    """Return the lengths of the shortest convex combination and of the longest of the task gradients."""
    _, task_grads = mtl.task_value_and_grad(losses_fn)(params, sources)
    gram = mtl.jacobians.stacked.gram(task_grads)
    shortest = mtl.jacobians.stacked.combine(task_grads, mtl.solvers.min_norm(gram).x)
    squared = mtl.jacobians.stacked.gram(jax.tree.map(lambda leaf: leaf[None], shortest))[0, 0]
    return jnp.sqrt(squared), jnp.sqrt(jnp.max(jnp.diagonal(gram)))
