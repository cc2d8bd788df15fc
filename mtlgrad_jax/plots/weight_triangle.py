"""Three tasks, over their weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes

from mtlgrad_jax.plots._style import BLACK, GREEN, SKY, VERMILION, axes_for, names_of, title

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(3) / 2]])
FINE = 200  # points along an edge
PLACES = (((8, 5), "left"), ((-8, -13), "right"), ((8, -13), "left"), ((-8, 5), "right"))  # of the names
HURTS = 1e-3  # a cosine below minus this is drawn as a conflict


def weight_triangle(
    gram: ArrayLike,
    weights: Mapping[str, ArrayLike] | None = None,
    *,
    tasks: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the weighted averages of three gradients in any dimension: how long each is, and whom it hurts.

    A point of the triangle is an average u = Σ αᵢgᵢ: a corner is one gradient, the centre their mean. Contours are
    lines of equal ‖u‖, and MGDA is where it is least. Shaded: u hurts no task.

    Args:
      gram: G, shape `(3, 3)`.
      weights: From the name of a method to its weights, shape `(3,)`, with a positive sum; drawn as shares.
      tasks: Names, three of them.
      ax: Where to draw.

    Returns:
      The axes; weights that hurt a task are drawn in vermilion.

    Raises:
      ValueError: If there are not three tasks.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> gram = jnp.array([[4.0, -1.0, 0.5], [-1.0, 1.0, 0.2], [0.5, 0.2, 2.0]])
      >>> ax = mtl.plots.weight_triangle(gram, {"MGDA": mtl.weightings.mgda(gram), "mean": jnp.ones(3)})
      >>> ax.get_legend_handles_labels()[1][0]
      'hurts no task'
    """
    gram = np.asarray(gram, np.float64)
    if gram.shape != (3, 3):
        raise ValueError(f"expected the Gram matrix of three tasks, got shape {gram.shape}.")
    gram = gram / max(np.max(np.diag(gram)), np.finfo(np.float64).tiny)
    names = names_of(tasks, 3)
    ax = axes_for(ax, 4.4)
    _draw_averages(ax, gram)
    ax.fill(*CORNERS.T, facecolor="none", edgecolor=BLACK, lw=1.2)
    for (x, y), name, place in zip(CORNERS, names, ("top", "top", "bottom"), strict=True):
        ax.text(x, y + (0.03 if place == "bottom" else -0.03), f"only {name}", ha="center", va=place)
    for number, (name, values) in enumerate((weights or {}).items()):
        alpha = np.asarray(values, np.float64) / np.sum(values)
        colour = VERMILION if _worst_cosine(gram, alpha) < -HURTS else GREEN
        ax.plot(*alpha @ CORNERS, "o", color=colour, mec=BLACK, ms=9, zorder=5)
        place, side = PLACES[number % len(PLACES)]
        ax.annotate(
            name, alpha @ CORNERS, place, textcoords="offset points", color=colour, fontsize=11, ha=side, zorder=6
        )
    ax.set(xlim=(-0.15, 1.15), ylim=(-0.13, 1.0), aspect="equal", xticks=[], yticks=[])
    ax.set(xlabel="shares of the three gradients in the update", ylabel="")
    ax.spines[:].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(0.95, 1), frameon=False)
    title(ax, "All averages of three gradients")
    return ax


def _draw_averages(ax, gram):
    second, third = np.indices((FINE, FINE)).reshape(2, -1)
    shares = np.stack([FINE - 1 - second - third, second, third], axis=1)
    alpha = shares[shares[:, 0] >= 0] / (FINE - 1)
    lengths = np.sqrt(np.maximum(np.einsum("ni,ij,nj->n", alpha, gram, alpha), 0))
    worst = np.min(alpha @ gram / np.sqrt(np.where(np.diag(gram) > 0, np.diag(gram), 1)), axis=1)
    points = (alpha @ CORNERS).T
    ax.tricontourf(*points, worst, levels=[0, max(worst.max(), 0) + 1], colors=[SKY], alpha=0.25)
    ax.fill([], [], color=SKY, alpha=0.25, lw=0, label="hurts no task")
    lines = ax.tricontour(*points, lengths, levels=7, colors="0.55", linewidths=0.9)
    ax.clabel(lines, fontsize=8, fmt="%.2g")
    ax.plot([], [], color="0.55", lw=0.9, label=r"$\Vert u\Vert\,/\,\max\Vert g\Vert$")


def _worst_cosine(gram, alpha):
    slopes, lengths = gram @ alpha, np.sqrt(np.diag(gram))
    scale = lengths * np.sqrt(max(alpha @ slopes, 0))
    return np.min(slopes / np.where(scale > 0, scale, 1))
