"""The table of what was measured, and a verdict that is computed from it."""

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mtlgrad_jax.demo.problem import NO_ERROR, Problem
from mtlgrad_jax.demo.training import CONFLICT, Run

EXPLANATION = f"""\
Spread: standard deviation over seeds. Sum, scaled sum: the losses added up as they are, and each divided by
its value at the start. Guarded: mtl.guard around method and Adam. u: the direction that Adam is given; step:
what Adam makes of it. Hurts: raises a loss on its own batch to first order, cosine below {CONFLICT:.4f}, what
float32 resolves. Pareto gap: shortest convex combination of the task gradients over the longest of them; zero
where no direction improves both tasks."""


def rows(problem: Problem, runs: dict[str, Run], costs: list[float]) -> list[tuple[str, list[str]]]:
    """Return the table as text, one label and one cell per run in each row.

    Args:
      problem: What was trained on.
      runs: From a run's name to what it measured, in the order of `comparison.compiled`.
      costs: Of the two runs with the method, in plain steps; a step on a sum is a plain step.

    Returns:
      The rows in reading order.
    """
    measured = list(runs.values())
    table = []
    for number, name in enumerate(problem.errors):
        table.append((name, [f"{_spread(100 * run.errors[-1, :, number])} %" for run in measured]))
    for number, name in enumerate(problem.judged):
        table.append((f"held-out loss, {name}", [_spread(run.losses[-1, :, number]) for run in measured]))
    table.append(("Pareto gap at the end", [f"{np.mean(run.pareto_gap):.2g}" for run in measured]))
    for label, of in (("gradients opposed", "opposed"), ("u hurts a task", "hurt_by_direction")):
        table.append((f"steps: {label}", [f"{np.mean(getattr(run.tally, of)):.1%}" for run in measured]))
    table.append(("steps: step hurts a task", [f"{np.mean(run.tally.hurt_by_step):.1%}" for run in measured]))
    for label, of in (("u", "worst_of_direction"), ("step", "worst_of_step")):
        table.append((f"worst cosine of {label}", [f"{np.min(getattr(run.tally, of)):+z.3f}" for run in measured]))
    table.append(("time, in plain steps", ["1", "1", *(f"{cost:.2f}" for cost in costs)]))
    return table


def verdict(problem: Problem, runs: dict[str, Run]) -> str:
    """Say what the method gains over both sums, and where the difference is within chance.

    Runs are compared seed by seed. A difference counts when all seeds agree on its sign and its mean exceeds two
    standard errors, of the logarithm.

    Args:
      problem: What was trained on.
      runs: From a run's name to what it measured, in the order of `comparison.compiled`.

    Returns:
      One line for each error.
    """
    (summed, scaled), (method, guarded) = list(runs)[:2], list(runs)[2:]
    parts = []
    for number, name in enumerate(problem.errors):
        others = ((method, summed), (method, scaled), (guarded, summed))
        final = {name: np.maximum(run.errors[-1, :, number], NO_ERROR) for name, run in runs.items()}
        compared = [f"{one} {_compare(final[one], final[other])} {other}" for one, other in others]
        parts.append(f"Verdict, {name}: {'; '.join(compared)}.")
    return "\n".join(parts)


def show(problem: Problem, runs: dict[str, Run], costs: list[float], *, title: str, console: Console) -> None:
    """Print the table, how to read it, and the verdict.

    Args:
      problem: What was trained on.
      runs: See `rows`.
      costs: See `rows`.
      title: What was trained.
      console: Where to print.
    """
    table = Table(title=title, box=box.SIMPLE_HEAVY, title_justify="left", padding=(0, 1, 0, 0))
    table.add_column("mean ± spread")
    for name in runs:
        table.add_column(name, justify="right")
    for label, cells in rows(problem, runs, costs):
        table.add_row(label, *cells)
    console.print(table)
    console.print(EXPLANATION, highlight=False, soft_wrap=True)
    console.print(verdict(problem, runs), highlight=False, soft_wrap=True)


def _spread(values):
    """Return mean and standard deviation, both to the second digit of the latter."""
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    places = max(0, 1 - int(np.floor(np.log10(deviation)))) if deviation > 0 else 2
    return f"{mean:.{places}f} ± {deviation:.{places}f}"


def _compare(chosen, baseline):
    """Say in words how two errors compare, seed by seed."""
    logs = np.log(baseline / chosen)
    lowest, mean, highest = (f"{value:.3g}" for value in np.exp([logs.min(), logs.mean(), logs.max()]))
    noise = 2 * logs.std(ddof=1) / np.sqrt(len(logs))
    if abs(logs.mean()) <= noise or logs.min() * logs.max() <= 0:
        return f"no clear difference ({lowest} to {highest} times less) from"
    if logs.mean() > 0:
        return f"{mean} times less ({lowest} to {highest}) than"
    lowest, mean, highest = (f"{value:.3g}" for value in np.exp([-logs.max(), -logs.mean(), -logs.min()]))
    return f"{mean} times more ({lowest} to {highest}) than"
