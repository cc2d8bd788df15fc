"""Paths over two parameters."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes

from mtlgrad_jax.plots._style import BLACK, OPTIMAL, axes_for, path_style, task_style, title

GRID = 80  # points along each side
QUANTILES = (0.01, 0.04, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9)


def landscape(
    losses_fn: Callable[[jax.Array], jax.Array],
    paths: Mapping[str, np.ndarray],
    *,
    pareto: np.ndarray | None = None,
    box: tuple[float, float, float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw paths of methods over the contours of the losses.

    Args:
      losses_fn: From θ, shape `(2,)`, to losses, shape `(T,)`; one set of contours each.
      paths: From the name of a method to its path, shape `(n, 2)`, or to several of them, `(m, n, 2)`.
      pareto: Points of the Pareto set in order, shape `(k, 2)`.
      box: The section to draw, `(left, right, bottom, top)`; what the paths need by default.
      ax: Where to draw.

    Returns:
      The axes; a circle marks where a path starts, a square where it ends.

    Example:
      >>> import jax.numpy as jnp, numpy as np, mtlgrad_jax as mtl
      >>> losses_fn = lambda theta: jnp.stack([jnp.sum((theta - 1) ** 2), jnp.sum((theta + 1) ** 2)])
      >>> path = np.array([[2.0, -1.0], [1.0, -0.5], [0.5, 0.0]])
      >>> ax = mtl.plots.landscape(losses_fn, {"MGDA": path}, pareto=np.array([[-1.0, -1.0], [1.0, 1.0]]))
      >>> ax.get_legend_handles_labels()[1]
      ['$L_{1}$', '$L_{2}$', 'Pareto set', 'MGDA']
    """
    paths = {name: np.atleast_3d(np.asarray(path).T).T for name, path in paths.items()}
    ax = axes_for(ax, 4.2)
    box = _box_around([*paths.values(), *([] if pareto is None else [np.asarray(pareto)])]) if box is None else box
    _draw_contours(ax, losses_fn, box)
    if pareto is not None:
        ax.plot(*np.asarray(pareto).T, color=OPTIMAL, lw=6, alpha=0.7, solid_capstyle="round", label="Pareto set")
    for number, (name, several) in enumerate(paths.items()):
        style = path_style(number)
        for first, path in enumerate(several):
            ax.plot(*path.T, lw=2.2, label=name if first == 0 else f"_{name}", **style)
            ax.plot(*path[0], "o", color=BLACK, ms=5, zorder=4)
            ax.plot(*path[-1], "s", color=style["color"], mec=BLACK, mew=0.8, ms=6.5, zorder=5)
    ax.set(xlabel=r"$\theta_1$", ylabel=r"$\theta_2$", xlim=box[:2], ylim=box[2:])
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    title(ax, "Paths from ● to ■ over the contours of the losses")
    return ax


def _draw_contours(ax, losses_fn, box):
    left, right, bottom, top = box
    xs, ys = np.meshgrid(np.linspace(left, right, GRID), np.linspace(bottom, top, GRID))
    grid = jnp.asarray(np.stack([xs, ys], axis=-1), jnp.float32)
    losses = np.asarray(jax.jit(jax.vmap(jax.vmap(losses_fn)))(grid))
    for task in range(losses.shape[-1]):
        style = task_style(task)
        levels = np.unique(np.quantile(losses[..., task], QUANTILES))
        ax.contour(xs, ys, losses[..., task], levels=levels, colors=style["color"], linewidths=0.8, alpha=0.55)
        ax.plot([], [], lw=0.8, label=f"$L_{{{task + 1}}}$", **style)


def _box_around(sets):
    points = np.concatenate([points.reshape(-1, 2) for points in sets])
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.12 * np.where(high > low, high - low, 1)
    return tuple(np.stack([low - margin, high + margin], axis=1).ravel())
