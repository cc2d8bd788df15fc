"""Two or three gradients in a plane."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from mtlgrad_jax.plots._style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, arrow, axes_for, title

TASKS = (BLUE, PURPLE, ORANGE)
FLAT = 1e-3  # the third dimension of what counts as lying in a plane, relative to the first


def geometry(
    task_grads: np.ndarray, directions: Mapping[str, np.ndarray] | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draw gradients that lie in a plane, and which directions hurt no task.

    The triangle or segment between the tips is their hull: all weighted averages. Shaded: the dual cone, the
    directions with a non-negative inner product with every gradient.

    Args:
      task_grads: J, shape `(T, P)` with T = 2 or 3. Two gradients always lie in a plane, three may.
      directions: From the name of a direction to the update, shape `(P,)`. One that hurts a task is dashed and
        vermilion, others are green; the part outside of the plane is left out.
      ax: Where to draw.

    Returns:
      The axes.

    Raises:
      ValueError: If there are not two or three gradients, or three do not lie in a plane.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[3.7, 0.5], [-1.0, 1.0]])
      >>> shortest = mtl.weightings.mgda(task_grads @ task_grads.T) @ task_grads
      >>> ax = mtl.plots.geometry(task_grads, {"sum": task_grads.sum(0), "MGDA": shortest})
      >>> ax.get_legend_handles_labels()[1]
      ['averages of the gradients', 'hurts no task', 'hurts a task']
    """
    rows, basis = _in_their_plane(np.asarray(task_grads, np.float64))
    directions = {name: np.asarray(update, np.float64) @ basis for name, update in (directions or {}).items()}
    box = _box_around(np.concatenate([np.zeros((1, 2)), rows, *(tip[None] for tip in directions.values())]))
    ax = axes_for(ax, 0.8 + 4.6 * (box[3] - box[2]) / (box[1] - box[0]))
    _draw_hull(ax, rows)
    _shade_dual_cone(ax, rows, box)
    for number, (row, colour) in enumerate(zip(rows, TASKS, strict=False)):
        arrow(ax, row, colour=colour, width=2.2)
        _label(ax, row, f"$g_{number + 1}$", colour, box)
    for name, tip in directions.items():
        hurts = bool(np.any(rows @ tip < -FLAT * np.linalg.norm(rows, axis=1) * np.linalg.norm(tip)))
        colour = VERMILION if hurts else GREEN
        arrow(ax, tip, colour=colour, width=1.8 if hurts else 3.2, dashed=hurts)
        _label(ax, tip, name, colour, box)
        if hurts and "hurts a task" not in ax.get_legend_handles_labels()[1]:
            ax.plot([], [], "--", color=VERMILION, lw=1.8, label="hurts a task")
    ax.plot(0, 0, "o", color=BLACK, ms=5, zorder=5)
    ax.set(xlim=box[:2], ylim=box[2:], aspect="equal", xticks=[], yticks=[])
    ax.set(xlabel="a plane through the gradients", ylabel="")
    ax.spines[:].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    title(ax, "Gradients, and directions that follow them")
    return ax


def _in_their_plane(rows):
    """Return the gradients in two coordinates, and the basis (P, 2) of their plane; a plane stays as it is."""
    num_tasks, num_params = rows.shape
    if num_tasks not in (2, 3) or num_params < 2:
        raise ValueError(f"expected two or three gradients of at least two entries, got shape {rows.shape}.")
    if num_params == 2:
        return rows, np.eye(2)
    _, spreads, directions = np.linalg.svd(rows, full_matrices=False)
    if num_tasks == 3 and spreads[2] > FLAT * spreads[0]:
        raise ValueError(
            f"expected three gradients in one plane, got singular values {np.round(spreads, 4)}; "
            "plots.weight_triangle draws any three."
        )
    basis = directions[:2].T
    return rows @ basis, basis


def _box_around(points):
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.14 * np.max(high - low) if np.any(high > low) else 1.0
    return (*np.stack([low - margin, high + margin], axis=1).ravel(),)


def _draw_hull(ax, rows):
    outline = {"lw": 1.2, "zorder": 1, "label": "averages of the gradients"}
    if len(rows) == 2:
        ax.plot(*rows.T, color=BLACK, **outline)
    else:
        ax.fill(*rows.T, facecolor="#F6E3B0", edgecolor=BLACK, **outline)


def _shade_dual_cone(ax, rows, box):
    """Cut the half-plane of every gradient out of the box."""
    polygon = np.array([[box[0], box[2]], [box[1], box[2]], [box[1], box[3]], [box[0], box[3]]])
    for row in rows:
        polygon = _cut(polygon, row)
    ax.fill(*(polygon.T if len(polygon) else ([], [])), color=SKY, alpha=0.25, lw=0, zorder=0, label="hurts no task")


def _cut(polygon, normal):
    """Return the part of a convex polygon where the inner product with a vector is not negative."""
    kept = []
    for here, there in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        inside, next_inside = here @ normal, there @ normal
        if inside >= 0:
            kept.append(here)
        if inside * next_inside < 0:
            kept.append(here + (there - here) * inside / (inside - next_inside))
    return np.array(kept)


def _label(ax, tip, text, colour, box):
    """Write beyond the tip, in the direction of the arrow."""
    length = np.linalg.norm(tip)
    reach = 0.055 * max(box[1] - box[0], box[3] - box[2])
    place = tip * (1 + reach / length) if length > 0 else tip + reach
    ax.text(*place, text, color=colour, fontsize=12, ha="center", va="center", zorder=6)
