"""One look for all pictures: colours that any colour vision tells apart, and text that is read at 700 pixels."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = PALETTE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)
LINES = ("-", "--", ":", "-.")
COSINES: Colormap = LinearSegmentedColormap.from_list("cosines", (VERMILION, "#FFFFFF", BLUE))
OPTIMAL = "#9A9A9A"  # the Pareto set and front
WIDTH = 7.0  # inches, 700 pixels at Matplotlib's resolution


def axes_for(ax: Axes | None, height: float, *, width: float = WIDTH) -> Axes:
    """Return the axes to draw into, new ones if there are none, without the lines on the right and on top."""
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def title(ax: Axes, text: str) -> None:
    """Say on the left above the picture what it shows."""
    ax.set_title(text, loc="left", fontsize=11)


def names_of(tasks: Sequence[str] | None, num_tasks: int) -> list[str]:
    """Return the names of the tasks, "task 1", "task 2", … by default."""
    if tasks is None:
        return [f"task {number + 1}" for number in range(num_tasks)]
    if len(tasks) != num_tasks:
        raise ValueError(f"expected a name for each of {num_tasks} tasks, got {len(tasks)}: {', '.join(tasks)}.")
    return list(tasks)


def task_style(number: int) -> dict:
    """Return a colour for every task, with another line where the colours begin anew."""
    return {"color": PALETTE[number % len(PALETTE)], "linestyle": LINES[number // len(PALETTE) % len(LINES)]}


def path_style(number: int) -> dict:
    """Return colours for methods that are told from those of the first two tasks."""
    colours = (GREEN, PURPLE, ORANGE, BLACK, SKY, BLUE, VERMILION)
    return {"color": colours[number % len(colours)], "linestyle": LINES[number // len(colours) % len(LINES)]}


def arrow(ax: Axes, tip, *, colour: str, width: float, dashed: bool = False) -> None:
    """Draw an arrow from the origin."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": width, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 14}
    ax.annotate("", tip, (0, 0), arrowprops=style | {"linestyle": "--" if dashed else "-"}, zorder=4)
