"""When which gradients oppose each other, and whom the update hurts."""

from collections.abc import Sequence
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes

from mtlgrad_jax import diagnostics
from mtlgrad_jax.plots._style import BLACK, COSINES, axes_for, names_of, title

MOST_COLUMNS = 250  # longer runs are drawn as means over neighbouring steps


def conflicts(
    grams: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    tasks: Sequence[str] | None = None,
    most_pairs: int = 10,
    ax: Axes | None = None,
) -> Axes:
    """Draw a timeline of conflicts: one row per pair of tasks, and one per task for its angle with the update.

    Vermilion: the two oppose each other. On the right the share of the steps in which they do.

    Args:
      grams: Shape `(n, T, T)`, one per step, `history["gram"]` for instance.
      weights: Shape `(n, T)`; without them only the pairs are drawn.
      tasks: Names, T of them.
      most_pairs: Draw only so many pairs, those that oppose each other most often.
      ax: Where to draw.

    Returns:
      The axes, with one image of a row per pair and task.

    Raises:
      ValueError: If shapes do not fit, or there is not one name per task.

    Example:
      >>> import numpy as np
      >>> import mtlgrad_jax as mtl
      >>> grams = np.array([[[1.0, -0.5], [-0.5, 1.0]], [[1.0, 0.5], [0.5, 1.0]]], np.float32)
      >>> ax = mtl.plots.conflicts(grams, np.ones((2, 2), np.float32))
      >>> [label.get_text() for label in ax.get_yticklabels()]
      ['task 1 × task 2', 'update × task 1', 'update × task 2']
    """
    grams = jnp.asarray(grams)
    names = names_of(tasks, grams.shape[-1])
    below = -diagnostics.resolution(grams.dtype)
    rows = _rows_of_pairs(np.asarray(jax.vmap(diagnostics.cosines)(grams)), names, below, most_pairs)
    num_pairs = len(rows)
    if weights is not None:
        aligned = np.asarray(jax.vmap(diagnostics.alignment)(grams, jnp.asarray(weights)))
        rows += [(f"update × {name}", aligned[:, task]) for task, name in enumerate(names)]
    labels, values = [label for label, _ in rows], np.stack([cosine for _, cosine in rows])
    num_columns = min(values.shape[1], MOST_COLUMNS)
    columns = [part.mean(axis=1) for part in np.array_split(values, num_columns, axis=1)]

    ax = axes_for(ax, 1.5 + 0.3 * len(rows))
    ax.spines[:].set_visible(False)
    extent = (0.5, len(grams) + 0.5, len(rows) - 0.5, -0.5)
    look = {"cmap": COSINES, "vmin": -1, "vmax": 1, "aspect": "auto", "interpolation": "nearest"}
    picture = ax.imshow(np.stack(columns, axis=1), extent=extent, **look)
    ax.figure.colorbar(picture, ax=ax, label="cosine", pad=0.13, ticks=(-1, 0, 1))
    ax.hlines(np.arange(1, len(rows)) - 0.5, *extent[:2], color="white", lw=2)
    if weights is not None and num_pairs:
        ax.axhline(num_pairs - 0.5, color=BLACK, lw=1.5)
    for row, share in enumerate((values < below).mean(axis=1)):
        ax.annotate(f"{share:.0%}", (1.01, row), xycoords=("axes fraction", "data"), va="center", annotation_clip=False)
    ax.set_yticks(range(len(rows)), labels)
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="step", ylabel="", xlim=extent[:2])
    title(ax, "Who opposes whom (right: in what share of the steps)")
    return ax


def _rows_of_pairs(cosines, names, below, most):
    pairs = list(combinations(range(len(names)), 2))
    often = sorted(pairs, key=lambda pair: -np.mean(cosines[:, *pair] < below))[:most]
    return [(f"{names[i]} × {names[j]}", cosines[:, i, j]) for i, j in pairs if (i, j) in often]
