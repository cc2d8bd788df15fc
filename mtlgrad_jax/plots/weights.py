"""Weights over time."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes

from mtlgrad_jax.plots._style import BLACK, axes_for, names_of, task_style, title


def weights(
    values: ArrayLike,
    *,
    tasks: Sequence[str] | None = None,
    steps: Sequence[int] | np.ndarray | None = None,
    window: int = 1,
    ax: Axes | None = None,
) -> Axes:
    """Draw the weight of every task over time.

    Args:
      values: Shape `(n, T)`, a row per step, `history["weights"]` for instance.
      tasks: Names, T of them.
      steps: The numbers of the steps; 1, 2, … by default.
      window: Draw the mean over so many steps as the line, and every step as a faint one behind it.
      ax: Where to draw.

    Returns:
      The axes, with one solid line per task.

    Raises:
      ValueError: If there is not one name per task.

    Example:
      >>> import numpy as np
      >>> import mtlgrad_jax as mtl
      >>> ax = mtl.plots.weights(np.array([[0.5, 0.5], [0.6, 0.4], [0.8, 0.2]]))
      >>> [line.get_label() for line in ax.get_lines() if not line.get_label().startswith("_")]
      ['task 1', 'task 2']
    """
    values = np.asarray(values)
    names = names_of(tasks, values.shape[1])
    at = np.arange(1, len(values) + 1) if steps is None else np.asarray(steps)
    ax = axes_for(ax, 3.2)
    for number, name in enumerate(names):
        style = task_style(number)
        if window > 1:
            ax.plot(at, values[:, number], lw=0.7, alpha=0.3, label="_every step", **style)
        ax.plot(at, moving_mean(values[:, number], window), lw=2, label=name, **style)
    ax.axhline(0, color=BLACK, lw=0.6, zorder=0)
    ax.set(xlabel="step", ylabel="weight", xlim=(at[0], at[-1]) if len(at) > 1 else None)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    title(ax, "Weights over time" + (f" (mean of {window} steps)" if window > 1 else ""))
    return ax


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of the last `window` values, of as many as there are at the start."""
    total = np.cumsum(np.asarray(values, np.float64))
    before = np.concatenate([np.zeros(min(window, len(total))), total[: max(len(total) - window, 0)]])
    return (total - before) / np.minimum(np.arange(1, len(total) + 1), window)
