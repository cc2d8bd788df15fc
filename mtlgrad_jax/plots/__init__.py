"""Pictures of gradients, weights and trajectories; needs `pip install ".[plots]"` in a checkout.

| picture           | shows                                                                        |
|-------------------|------------------------------------------------------------------------------|
| `geometry`        | two or three gradients in a plane: their hull, what hurts no task, directions |
| `weight_triangle` | the same for any three gradients, over their weights                         |
| `cosines`         | the angles between the gradients of one step                                 |
| `weights`         | weights over time                                                            |
| `conflicts`       | which pairs of gradients oppose each other, and whom the update hurts, over time |
| `landscape`       | paths over two parameters, with contours of the losses and the Pareto set    |
| `front`           | paths in loss space, with the Pareto front                                   |
| `trade_offs`      | members of a population in two or three losses, with rays, reference and who is dominated |
| `convergence`     | the gap of solvers against the number of iterations                          |

Every function draws into the `ax` that it is given, or makes one, and returns it. Colours are those of Okabe and
Ito, which people with any colour vision can tell apart; vermilion always means a conflict.
"""

try:
    import matplotlib  # noqa: F401
except ModuleNotFoundError as missing:
    raise ImportError(
        'mtlgrad_jax.plots needs Matplotlib; in a checkout of mtlgrad_jax: pip install ".[plots]"'
    ) from missing

from mtlgrad_jax.plots._style import PALETTE
from mtlgrad_jax.plots.conflicts import conflicts
from mtlgrad_jax.plots.convergence import convergence
from mtlgrad_jax.plots.cosines import cosines
from mtlgrad_jax.plots.front import front
from mtlgrad_jax.plots.geometry import geometry
from mtlgrad_jax.plots.landscape import landscape
from mtlgrad_jax.plots.trade_offs import trade_offs
from mtlgrad_jax.plots.weight_triangle import weight_triangle
from mtlgrad_jax.plots.weights import weights

__all__ = [
    "PALETTE",
    "conflicts",
    "convergence",
    "cosines",
    "front",
    "geometry",
    "landscape",
    "trade_offs",
    "weight_triangle",
    "weights",
]
