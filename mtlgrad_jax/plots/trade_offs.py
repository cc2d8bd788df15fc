"""Members of a population in loss space."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from mtlgrad_jax.fronts import nondominated
from mtlgrad_jax.plots._style import BLACK, BLUE, OPTIMAL, SKY, VERMILION, axes_for, title


def trade_offs(
    losses: np.ndarray,
    *,
    rays: np.ndarray | None = None,
    reference: np.ndarray | None = None,
    pareto: np.ndarray | None = None,
    chosen: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw where the members of a population are, on the way and in the end, in two or three losses.

    Args:
      losses: L, shape `(K, T)`, or over the steps `(steps, K, T)`; T is two or three.
      rays: r, shape `(K, T)`, where each member should end.
      reference: Shape `(T,)`, from where the hypervolume is measured; for two losses its area is shaded.
      pareto: Points of the Pareto front, shape `(M, T)`; for two losses in order.
      chosen: The number of a member to be ringed.
      ax: Where to draw; for three losses axes with `projection="3d"`.

    Returns:
      The axes; a cross in vermilion is a member that another one beats in every loss.

    Raises:
      ValueError: If there are not two or three losses.

    Example:
      >>> import numpy as np
      >>> import mtlgrad_jax as mtl
      >>> ax = mtl.plots.trade_offs(np.array([[1.0, 3.0], [2.0, 2.0], [2.5, 2.5]]), reference=np.array([4.0, 4.0]))
      >>> ax.get_legend_handles_labels()[1]
      ['hypervolume', 'reference', 'members', 'dominated']
    """
    losses = np.asarray(losses, float)
    paths = losses[None] if losses.ndim == 2 else losses
    num_tasks = paths.shape[-1]
    if num_tasks not in (2, 3):
        raise ValueError(f"expected two or three losses in the last axis, got {num_tasks}.")
    ax = axes_for(ax, 4.2) if num_tasks == 2 else _solid_axes(ax)
    last = paths[-1]
    kept = np.asarray(nondominated(last))
    _draw_ground(ax, last, kept, rays, reference, pareto)
    for path in paths.swapaxes(0, 1) if len(paths) > 1 else ():
        ax.plot(*path.T, color=OPTIMAL, lw=0.8, alpha=0.7, zorder=1)
    style: dict[str, Any] = {"linestyle": "none", "zorder": 5}
    ax.plot(*last[kept].T, marker="o", ms=6, color=BLUE, mec="white", mew=0.6, label="members", **style)
    if not kept.all():
        ax.plot(*last[~kept].T, marker="x", ms=7, mew=2, color=VERMILION, label="dominated", **style)
    if chosen is not None:
        ring = dict(style, zorder=6)
        ax.plot(*last[[chosen]].T, marker="o", ms=13, mfc="none", mec=BLACK, mew=1.8, label="chosen", **ring)
    names = [f"loss of task {number + 1}" for number in range(num_tasks)]
    ax.set(**dict(zip(("xlabel", "ylabel", "zlabel"), names, strict=False)))
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    title(ax, "Members of the population")
    return ax


def _solid_axes(ax):
    if ax is None:
        ax = plt.figure(figsize=(7.0, 4.6), layout="constrained").add_subplot(projection="3d")
    ax.view_init(elev=25, azim=35)
    ax.set_box_aspect(None, zoom=0.95)  # pyright: ignore[reportArgumentType]  # Matplotlib takes a float and says int
    return ax


def _draw_ground(ax, last, kept, rays, reference, pareto):
    """Draw what the members are measured by, behind them."""
    if pareto is not None:
        pareto = np.asarray(pareto, float)
        solid = pareto.shape[1] == 3
        style = {"marker": ".", "ms": 2, "lw": 0} if solid else {"lw": 6, "solid_capstyle": "round"}
        ax.plot(*pareto.T, color=OPTIMAL, alpha=0.4 if solid else 0.7, zorder=2, label="Pareto front", **style)
    if rays is not None:
        rays = np.asarray(rays, float)
        reach = np.max(np.abs(last)) / np.max(rays, axis=1, keepdims=True)
        for number, end in enumerate(rays * reach):
            label = "rays" if number == 0 else "_ray"
            ax.plot(*np.stack([0 * end, end]).T, color=BLACK, lw=0.6, ls=":", zorder=2, label=label)
    if reference is not None:
        reference = np.asarray(reference, float)
        inside = last[kept & np.all(last < reference, axis=1)]
        if last.shape[1] == 2 and len(inside):
            steps = inside[np.argsort(inside[:, 0])]
            right = np.append(steps[:, 0], reference[0])
            ax.fill_between(
                right,
                np.append(steps[:, 1], steps[-1, 1]),
                reference[1],
                step="post",
                color=SKY,
                alpha=0.22,
                lw=0,
                zorder=0,
                label="hypervolume",
            )
        ax.plot(*reference[:, None], marker="*", ms=12, linestyle="none", color=BLACK, label="reference")
