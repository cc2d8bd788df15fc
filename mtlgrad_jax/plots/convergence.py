"""How fast solvers approach the answer."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from mtlgrad_jax.plots._style import GREEN, axes_for, path_style, title

ROUNDING = float(np.finfo(np.float32).eps)


def convergence(
    gaps: Mapping[str, Sequence[float]],
    *,
    steps: Sequence[int],
    exact: tuple[int, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the gap of iterative solvers against their number of iterations.

    Args:
      gaps: From the name of a solver to its gap after each number of `steps`.
      steps: Numbers of iterations.
      exact: Steps and gap of the exact solver.
      ax: Where to draw.

    Returns:
      The axes, with a line per solver; below the rounding error of float32 lines run along the shaded floor.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> gram, steps = jnp.eye(4), (1, 10, 100)
      >>> gaps = [mtl.solvers.frank_wolfe(gram, step="2/(k+2)", max_steps=count).gap for count in steps]
      >>> answer = mtl.solvers.min_norm(gram)
      >>> ax = mtl.plots.convergence({"Frank–Wolfe": gaps}, steps=steps, exact=(answer.num_steps, answer.gap))
      >>> ax.get_xscale(), ax.get_yscale()
      ('log', 'log')
    """
    ax = axes_for(ax, 3.8)
    floor = ROUNDING / 8
    for number, (name, values) in enumerate(gaps.items()):
        style = path_style(number + 1)
        ax.loglog(steps, np.maximum(np.asarray(values, float), floor), marker=".", ms=6, lw=2, label=name, **style)
    if exact is not None:
        num_steps, gap = int(exact[0]), max(float(exact[1]), floor)
        ax.plot(max(num_steps, 1), gap, "*", color=GREEN, ms=16, label=f"exact, {num_steps} steps", zorder=5)
    ax.axhspan(floor / 4, ROUNDING, color="0.9", lw=0, zorder=0)
    ax.text(
        0.99,
        ROUNDING * 0.8,
        "rounding of float32",
        ha="right",
        va="top",
        fontsize=9,
        transform=ax.get_yaxis_transform(),
    )
    ax.set(xscale="log", yscale="log", ylim=(floor / 4, None))
    ax.set(xlabel="iterations", ylabel=r"gap, in units of $\max\Vert g_i\Vert^2$")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    title(ax, "How far from the optimum after so many iterations")
    return ax
