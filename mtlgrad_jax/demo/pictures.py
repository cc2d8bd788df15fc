"""What the networks of a problem make of it, as pictures side by side."""

import numpy as np
from jax.typing import ArrayLike
from matplotlib.figure import FigureBase

from mtlgrad_jax.demo import data

NUM_CANVASES = 8


def fields(figure: FigureBase, shown: dict[str, ArrayLike]) -> None:
    """Draw functions on the square [−1, 1]² in one scale of colours.

    Args:
      figure: Where to draw.
      shown: From a name to values of shape `(n, n)`, row by row in y; the first is the exact one and sets the scale.
    """
    drawn = {name: np.asarray(values) for name, values in shown.items()}
    exact = next(iter(drawn.values()))
    limit = np.abs(exact).max()
    panels = figure.subplots(1, len(drawn), sharex=True, sharey=True)
    for axes, (name, values) in zip(panels, drawn.items(), strict=True):
        axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, extent=(-1, 1, -1, 1), origin="lower")
        error = np.linalg.norm(values - exact) / np.linalg.norm(exact)
        axes.set_title(name if values is exact else f"{name}: {error:.1%} off", fontsize=10)
        axes.set(xlabel="x", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    panels[0].set_ylabel("y")
    figure.colorbar(
        panels[0].images[0], ax=panels, label="u(x, y)", ticks=(-limit, 0, limit), format="{x:.0f}", extend="both"
    )


def canvases(figure: FigureBase, shown: dict[str, np.ndarray], held_out: data.Pairs) -> None:
    """Draw held-out canvases with what is on them and which run reads it rightly.

    Args:
      figure: Where to draw.
      shown: From the name of a run to whether it read the left and the right digit, shape `(NUM_CANVASES, 2)`.
      held_out: The canvases, those that are drawn come first.
    """
    height, width = held_out.canvases.shape[1:]
    for example, axes in enumerate(figure.subplots(1, NUM_CANVASES, sharey=True)):
        axes.imshow(held_out.canvases[example], cmap="gray_r", vmin=0, vmax=1, extent=(0, width, height, 0))
        axes.set(xticks=(0, width), yticks=(0, height))
        axes.tick_params(labelsize=7)
        axes.set_title("{} and {}".format(*held_out.labels[example]), fontsize=9)
        axes.set_xlabel("\n".join(_read(hits[example]) for hits in shown.values()), fontsize=7)
    names = "; ".join(shown)
    figure.supxlabel(f"held-out canvases (pixels), and which digit is read rightly, from above: {names}", fontsize=8)


def _read(hits):
    return " and ".join(side for side, hit in zip(("left", "right"), hits, strict=True) if hit) or "neither"
