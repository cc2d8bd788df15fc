"""One figure that shows the task, the angles between gradients, and what came of it."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mtlgrad_jax.demo import data
from mtlgrad_jax.demo.problems import DIGITS
from mtlgrad_jax.demo.report import CONFLICT
from mtlgrad_jax.demo.training import Run

# Okabe and Ito's colours, told apart by every kind of colour vision; the markers tell the runs apart once more.
COLOURS = ("#D55E00", "#0072B2")
MARKERS = ("o", "s")
HURTS = "#D9D9D9"
NUM_EXAMPLES = 8


def save(path: Path, runs: dict[str, Run], *, title: str, held_out: data.Pairs) -> None:
    """Draw the figure and write it to a file.

    Args:
      path: The file; its suffix decides the format.
      runs: The run on the summed loss, then the run with the chosen method.
      title: What was trained.
      held_out: Where the example canvases come from.
    """
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle(title, fontsize=13)
    top, middle, bottom = figure.subfigures(3, 1, squeeze=False, height_ratios=(1.15, 3, 3)).ravel()
    _draw_examples(top, runs, held_out)
    _draw_angles(middle, runs)
    losses, accuracy = bottom.subplots(1, 2, width_ratios=(2, 1))
    _draw_losses(losses, runs)
    _draw_accuracy(accuracy, runs)
    figure.savefig(path, dpi=120)


def _draw_examples(figure, runs, held_out):
    """Show held-out canvases with what is on them and which run reads it rightly."""
    figure.suptitle("Held-out canvases: the true digits, and what each run read rightly (L left, R right)", fontsize=10)
    for example, axes in enumerate(figure.subplots(1, NUM_EXAMPLES)):
        axes.imshow(held_out.canvases[example], cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title("{} and {}".format(*held_out.labels[example]), fontsize=9)
        axes.set_xlabel("\n".join(f"{name}: {_read(run.hits[example])}" for name, run in runs.items()), fontsize=7)


def _read(hits):
    return " ".join(letter for letter, hit in zip("LR", hits, strict=True) if hit) or "neither"


def _draw_angles(figure, runs):
    """Show the smaller of the two cosines per step: below zero, the step raises a loss."""
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (name, run), colour in zip(panels, runs.items(), COLOURS, strict=True):
        opposed = run.angles.between_tasks
        worst = run.angles.direction.min(axis=1)
        steps = np.arange(1, len(worst) + 1)
        axes.axhspan(-1, 0, color=HURTS, zorder=0)
        axes.text(0.01, 0.03, "below zero: hurts a task", transform=axes.transAxes, fontsize=8)
        axes.plot(steps, opposed, ".", color="#999999", markersize=2, label="between the two task gradients")
        axes.plot(steps, worst, ".", color=colour, markersize=3, label="direction taken, with the task it helps least")
        share = np.mean(worst < CONFLICT)
        axes.set_title(f"{name}: direction conflicted with a task in {share:.1%} of steps", fontsize=10)
        axes.set(xlabel="step", ylim=(-1, 1))
        axes.legend(loc="lower right", fontsize=8, markerscale=4)
    panels[0].set_ylabel("cosine")


def _draw_losses(axes, runs):
    """Show held-out loss; the line tells the digit, the colour tells the run."""
    for (name, run), colour, marker in zip(runs.items(), COLOURS, MARKERS, strict=True):
        for digit, line in enumerate(("-", "--")):
            axes.plot(
                run.checked_at,
                run.held_out_losses[:, digit],
                line,
                color=colour,
                marker=marker,
                markersize=3,
                label=f"{name}, {DIGITS[digit]}",
            )
    axes.set(xlabel="step", ylabel="cross-entropy", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_title("Loss on held-out images", fontsize=10)
    axes.legend(fontsize=8)


def _draw_accuracy(axes, runs):
    """Show final accuracy as labelled bars."""
    places = np.arange(len(DIGITS))
    for number, ((name, run), colour) in enumerate(zip(runs.items(), COLOURS, strict=True)):
        bars = axes.bar(places + 0.4 * (number - 0.5), 100 * run.hits.mean(axis=0), 0.38, color=colour, label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=9)
    axes.set(xticks=places, xticklabels=DIGITS, ylabel="% read rightly", ylim=(0, 125))
    axes.set_title("Accuracy on held-out images", fontsize=10)
    axes.legend(fontsize=8, loc="upper center", ncols=2)
