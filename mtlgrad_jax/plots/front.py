"""Paths in loss space."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mtlgrad_jax.plots._style import BLACK, OPTIMAL, SKY, axes_for, path_style, title


def front(losses: Mapping[str, np.ndarray], *, pareto: np.ndarray | None = None, ax: Axes | None = None) -> Axes:
    """Draw how two losses fell, and the front beyond which one can only be traded for the other.

    The shaded corner is what is better for both tasks than the first start; a path that leaves it has paid for one
    task with the other.

    Args:
      losses: From the name of a method to the losses along its path, shape `(n, 2)`, or along several, `(m, n, 2)`.
      pareto: Losses along the Pareto front in order, shape `(k, 2)`.
      ax: Where to draw.

    Returns:
      The axes; a circle marks where a path starts, a square where it ends.

    Example:
      >>> import numpy as np
      >>> import mtlgrad_jax as mtl
      >>> ax = mtl.plots.front({"sum": np.array([[3.0, 1.0], [2.0, 1.5], [0.5, 2.0]])})
      >>> ax.get_xlabel(), ax.get_ylabel()
      ('loss of task 1', 'loss of task 2')
    """
    losses = {name: np.atleast_3d(np.asarray(values).T).T for name, values in losses.items()}
    ax = axes_for(ax, 4.2)
    start = next(iter(losses.values()))[0, 0]
    if pareto is not None:
        ax.plot(*np.asarray(pareto).T, color=OPTIMAL, lw=6, alpha=0.7, solid_capstyle="round", label="Pareto front")
    for number, (name, several) in enumerate(losses.items()):
        style = path_style(number)
        for first, values in enumerate(several):
            ax.plot(*values.T, lw=2.2, label=name if first == 0 else f"_{name}", **style)
            ax.plot(*values[0], "o", color=BLACK, ms=5, zorder=4)
            ax.plot(*values[-1], "s", color=style["color"], mec=BLACK, mew=0.8, ms=6.5, zorder=5)
    (left, _), (bottom, _) = ax.get_xlim(), ax.get_ylim()
    corner = Rectangle((left, bottom), *(start - (left, bottom)), color=SKY, alpha=0.22, lw=0, zorder=0)
    corner.set_label("better for both")
    ax.add_patch(corner)
    ax.set(xlabel="loss of task 1", ylabel="loss of task 2", xlim=(left, None), ylim=(bottom, None))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    title(ax, "The two losses, from ● to ■")
    return ax
