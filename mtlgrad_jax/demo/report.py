"""The table of what was measured, and a verdict that is computed from it."""

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mtlgrad_jax import diagnostics
from mtlgrad_jax.demo.problems import DIGITS
from mtlgrad_jax.demo.training import Run

CONFLICT = -diagnostics.resolution(np.float32)
"""A cosine below this is a conflict."""


def rows(runs: dict[str, Run], tasks: tuple[str, str]) -> list[tuple[str, list[str]]]:
    """Return the table as text, one label and one cell per run in each row.

    Args:
      runs: From a run's name to what it measured.
      tasks: Names of the two tasks.

    Returns:
      The rows in reading order.
    """
    measured = list(runs.values())
    table = []
    for digit, name in enumerate(DIGITS):
        table.append((f"held-out loss, {name}", [f"{run.held_out_losses[-1, digit]:.3f}" for run in measured]))
    for digit, name in enumerate(DIGITS):
        table.append((f"held-out accuracy, {name}", [f"{run.hits[:, digit].mean():.1%}" for run in measured]))
    table.append(("steps: the two task gradients opposed", [_share(run.angles.between_tasks) for run in measured]))
    for task, name in enumerate(tasks):
        label = f"steps: sum conflicted with {name}"
        table.append((label, [_share(run.angles.summed[:, task]) for run in measured]))
    table.append(("worst cosine, summed gradient with a task", [f"{run.angles.summed.min():+.3f}" for run in measured]))
    table.append(("steps: direction taken conflicted", [_share(run.angles.direction.min(axis=1)) for run in measured]))
    label = "worst cosine, direction taken with a task"
    table.append((label, [f"{run.angles.direction.min():+.3f}" for run in measured]))
    table.append(("Pareto gap at the end", [f"{run.shortest:.3f}" for run in measured]))
    table.append(("  same / longest task gradient", [f"{run.shortest / run.longest:.3f}" for run in measured]))
    return table


def verdict(name: str, baseline: Run, chosen: Run) -> str:
    """Say which run reads more held-out digits, and where the difference is within chance.

    The two runs are compared canvas by canvas. A difference counts when it exceeds two standard errors.

    Args:
      name: Of the chosen method.
      baseline: The run on the summed loss.
      chosen: The run with the method.

    Returns:
      One sentence.
    """
    parts = []
    for digit, side in enumerate(DIGITS):
        difference = chosen.hits[:, digit].astype(float) - baseline.hits[:, digit]
        points, noise = 100 * difference.mean(), 200 * difference.std() / np.sqrt(len(difference))
        outcome = "no clear difference" if abs(points) <= noise else "more" if points > 0 else "fewer"
        parts.append(f"{side} {outcome} ({points:+.1f} ± {noise:.1f} points)")
    return f"Verdict: digits read rightly with {name} rather than the summed loss: {', '.join(parts)}."


def show(runs: dict[str, Run], tasks: tuple[str, str], *, title: str, console: Console) -> None:
    """Print the table, how to read it, and the verdict.

    Args:
      runs: The run on the summed loss, then the run with the chosen method.
      tasks: Names of the two tasks.
      title: What was trained.
      console: Where to print.
    """
    table = Table(title=title, box=box.SIMPLE_HEAVY, title_justify="left")
    table.add_column("measured")
    for name in runs:
        table.add_column(name, justify="right")
    for label, cells in rows(runs, tasks):
        table.add_row(label, *cells)
    console.print(table)
    console.print(
        "Conflict: the direction raises that task's loss to first order (cosine below "
        f"{CONFLICT:.4f}, what float32 resolves).\n"
        "Pareto gap: length of the shortest convex combination of the task gradients on all training\n"
        "canvases; zero where no direction improves both tasks.",
        highlight=False,
        soft_wrap=True,
    )
    (_, baseline), (name, chosen) = runs.items()
    console.print(verdict(name, baseline, chosen), highlight=False, soft_wrap=True)


def _share(cosines):
    return f"{np.mean(cosines < CONFLICT):.1%}"
