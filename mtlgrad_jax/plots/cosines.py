"""A heat map of the angles between gradients."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from mtlgrad_jax import diagnostics
from mtlgrad_jax.plots._style import COSINES, axes_for, names_of, title
from mtlgrad_jax.typing import Gram

MOST_NUMBERS = 12  # tasks; beyond, numbers in the cells are too small to read


def cosines(gram: Gram, *, tasks: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw the cosines between the task gradients, those that oppose each other in vermilion.

    Args:
      gram: G, shape `(T, T)`; or a matrix of cosines, for instance their mean over steps.
      tasks: Names, T of them.
      ax: Where to draw.

    Returns:
      The axes.

    Raises:
      ValueError: If `gram` is not a square matrix of floats or there is not one name per task.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> ax = mtl.plots.cosines(jnp.array([[1.0, -1.0], [-1.0, 4.0]]), tasks=["depth", "normals"])
      >>> ax.get_title(loc="left")
      'Cosines between the task gradients'
    """
    values = np.asarray(diagnostics.cosines(jnp.asarray(gram)))
    names = names_of(tasks, len(values))
    side = min(2.2 + 0.55 * len(values), 7.0)
    ax = axes_for(ax, side, width=side + 1.0)
    ax.spines[:].set_visible(False)
    picture = ax.imshow(values, cmap=COSINES, vmin=-1, vmax=1)
    ax.figure.colorbar(picture, ax=ax, shrink=0.85, label="cosine (below 0: opposed)")
    if len(values) <= MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if abs(value) > 0.7 else "black"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=9)
    places = range(len(values))
    ax.set_xticks(places, names, rotation=0 if max(map(len, names)) < 8 else 35, ha="center")
    ax.set_yticks(places, names)
    ax.tick_params(length=0)
    ax.set(xlabel="gradient of", ylabel="gradient of")
    title(ax, "Cosines between the task gradients")
    return ax
