"""Train, report, draw."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import optax
from rich.console import Console
from tqdm import tqdm

from mtlgrad_jax.demo import cost, figure, methods, problems, report, training
from mtlgrad_jax.demo.problem import Problem

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
    start = training.begin(problem, seeds)
    trainings = compiled(problem, start, method_name, method, num_steps)
    plain, runs = trainings.pop("plain"), {}
    for name, ready in trainings.items():
        with tqdm(total=num_steps, desc=f"{name:>{len('guarded ' + method_name)}}", unit="step") as progress:
            runs[name] = training.finish(problem, start, ready, num_steps, progress)
    costs = cost.in_plain_steps(problem, list(trainings.values())[2:], plain, num_steps)
    title = f"Problem {problem_name!r}: {num_steps} steps of Adam, seeds {seeds[0]} to {seeds[-1]}"
    report.show(problem, runs, costs, title=title, console=Console())
    figure.save(path, problem, runs, title=title)
    print(f"Figure: {path}\nTime: {time.perf_counter() - started:.0f} s")


def compiled(
    problem: Problem,
    start: training.Start,
    method_name: str,
    method: optax.GradientTransformationExtraArgs,
    num_steps: int,
) -> dict[str, training.Training]:
    """Make what is compared: both ways to add up losses, a method without and with a guard, and a plain step.

    Args:
      problem: What to train on.
      start: What `training.begin` drew.
      method_name: What the method is called.
      method: The Optax transformation of stacked task gradients.
      num_steps: Steps of each run.

    Returns:
      From a name to a run before its first step.

    Raises:
      UnsuitableMethod: See `run`.
    """
    prepare = partial(training.prepare, problem, start=start, num_steps=num_steps)
    # The chosen method goes first: if it does not fit, the user hears so before anything takes time.
    guarded, chosen = (prepare(methods.Recipe(method, guarded)) for guarded in (True, False))
    ready = [guarded, chosen, prepare(methods.Recipe(methods.summed())), cost.plain_training(problem, start)]
    with ThreadPoolExecutor() as pool:
        jobs = pool.map(lambda one: one.compiled(problem), ready)
        for look in (start.judge, start.at_the_end):
            pool.submit(look, start.params, problem.data)
        guarded, chosen, summed, plain = tqdm(jobs, total=len(ready), desc="compiling", unit="program")
    scaled = summed._replace(state=summed.state._replace(scale=1 / start.losses))
    runs = {"sum": summed, "scaled sum": scaled, method_name: chosen, f"guarded {method_name}": guarded}
    return runs | {"plain": plain}
