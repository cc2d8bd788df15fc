"""Train, report, draw."""

import time
from functools import partial
from pathlib import Path

import optax
from rich.console import Console
from tqdm import tqdm

from mtlgrad_jax.demo import cost, figure, methods, problems, report, training

NUM_SEEDS = 3


def run(
    problem_name: str,
    method_name: str,
    method: optax.GradientTransformationExtraArgs,
    *,
    num_steps: int,
    seed: int,
    path: Path,
) -> None:
    """Train on the summed loss and with a method, on three seeds each; print the table and save the figure.

    Args:
      problem_name: See `problems.make`.
      method_name: What the method is called in the table.
      method: The Optax transformation of stacked task gradients.
      num_steps: Steps of each run.
      seed: The first of the seeds, which decide everything random.
      path: File of the figure.

    Raises:
      UnsuitableMethod: If the method cannot work with what the train step hands to it.
    """
    started = time.perf_counter()
    seeds = tuple(range(seed, seed + NUM_SEEDS))
    problem = problems.make(problem_name, seeds)
    recipes = methods.recipes(method_name, method)
    prepare = partial(training.prepare, problem, seeds=seeds, num_steps=num_steps)
    trainings = {name: prepare(recipe) for name, recipe in recipes.items()}
    runs = {}
    for name, ready in trainings.items():
        with tqdm(total=num_steps, desc=f"{name:>{max(map(len, trainings))}}", unit="step") as progress:
            runs[name] = training.finish(problem, ready, num_steps, progress)
    costs = cost.in_plain_steps(problem, list(trainings.values())[2:], seeds, num_steps)
    title = f"Problem {problem_name!r}: {num_steps} steps of Adam, seeds {seeds[0]} to {seeds[-1]}"
    report.show(problem, runs, costs, title=title, console=Console())
    figure.save(path, problem, runs, title=title)
    print(f"Figure: {path}\nTime: {time.perf_counter() - started:.0f} s")
