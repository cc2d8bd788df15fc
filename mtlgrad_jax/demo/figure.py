"""One figure: what the networks make of the problem, their errors over time, and what was done to the tasks."""

from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mtlgrad_jax.demo.problem import NO_ERROR, Problem
from mtlgrad_jax.demo.training import Run

# Okabe and Ito's colours, told apart by every kind of colour vision; lines and markers tell the runs apart once more.
STYLES = (("#D55E00", "-", "o"), ("#E69F00", "--", "s"), ("#0072B2", "-", "^"), ("#009E73", "--", "v"))


def save(path: Path, problem: Problem, runs: dict[str, Run], *, title: str) -> None:
    """Draw the figure and write it to a file.

    Args:
      path: The file; its suffix decides the format.
      problem: What was trained on.
      runs: From a run's name to what it measured.
      title: What was trained.
    """
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    figure.suptitle(f"{title}; above, the first seed's networks", fontsize=12, x=0.01, ha="left")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=(1, 1.35)).ravel()
    first = jax.tree.map(lambda leaf: leaf[0], problem.data)
    problem.picture(top, {name: run.shown[0] for name, run in runs.items()}, first)
    ratios = (*(1.2 for _ in problem.errors), 1)
    *errors, harm = bottom.subplots(1, len(problem.errors) + 1, width_ratios=ratios)
    for number, axes in enumerate(errors):
        _draw_errors(axes, problem.errors[number], number, runs)
    errors[0].legend(fontsize=8)
    _draw_harm(harm, runs)
    figure.savefig(path, dpi=120)


def _draw_errors(axes, name, number, runs):
    """Draw an error over the steps, geometric mean and range over seeds."""
    for (label, run), (colour, line, marker) in zip(runs.items(), STYLES, strict=True):
        values = 100 * np.maximum(run.errors[:, :, number], NO_ERROR)
        middle = np.exp(np.log(values).mean(axis=1))
        axes.plot(run.checked_at, middle, line, color=colour, marker=marker, markersize=3, label=label)
        axes.fill_between(run.checked_at, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="step", ylabel="%", yscale="log")
    axes.set_title(f"{name} (mean, range)", fontsize=10, loc="left")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)


def _draw_harm(axes, runs):
    """Draw how often the direction, and the step made of it, hurt a task on its own batch."""
    places = np.arange(len(runs))[::-1]
    for offset, (label, of, colour) in zip(
        (0.2, -0.2),
        (("direction u", "hurt_by_direction", "#BBBBBB"), ("step taken", "hurt_by_step", "#555555")),
        strict=True,
    ):
        shares = [100 * np.mean(getattr(run.tally, of)) for run in runs.values()]
        bars = axes.barh(places + offset, shares, 0.38, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.set(yticks=places, yticklabels=list(runs), xlabel="% of steps", xmargin=0.15)
    axes.set_title("steps that hurt a task", fontsize=10, loc="left")
    axes.legend(fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
