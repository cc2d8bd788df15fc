"""Train twice, report, draw."""

import time
from functools import partial
from pathlib import Path

import optax
from rich.console import Console
from tqdm import tqdm

from mtlgrad_jax.demo import figure, methods, problems, report, training

BASELINE = "summed loss"


def run(
    problem_name: str,
    method_name: str,
    method: optax.GradientTransformationExtraArgs,
    *,
    num_steps: int,
    seed: int,
    path: Path,
) -> None:
    """Train on the summed loss and with a method, print the table and save the figure.

    Args:
      problem_name: See `problems.make`.
      method_name: What the method is called in the table.
      method: The Optax transformation of stacked task gradients.
      num_steps: Steps of each run.
      seed: Decides everything random.
      path: File of the figure.

    Raises:
      UnsuitableMethod: If the method cannot work with what the train step hands to it.
    """
    started = time.perf_counter()
    problem = problems.make(problem_name, seed)
    train = partial(training.train, problem, num_steps=num_steps, seed=seed)
    # The chosen method goes first: if it does not fit, the user hears so at once.
    chosen = train(method, progress=partial(tqdm, desc=method_name, unit="step"))
    baseline = train(methods.summed(), progress=partial(tqdm, desc=BASELINE, unit="step"))
    runs = {BASELINE: baseline, method_name: chosen}
    title = f"Problem {problem_name!r}: {num_steps} steps, seed {seed}"
    report.show(runs, problem.tasks, title=title, console=Console())
    figure.save(path, runs, title=title, held_out=problem.held_out)
    print(f"Figure: {path}\nTime: {time.perf_counter() - started:.0f} s")
