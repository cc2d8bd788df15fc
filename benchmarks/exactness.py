"""Claim: MGDA's weights from a float32 Gram matrix are exact to 2e-6 in ‖u‖², no cosine below -1e-5.

    python -m benchmarks.exactness

Judged in float64 against scipy's NNLS on J, Gaussian gradients with lengths spread over 0, 4 and 12 decades, ten draws.
"""

import jax.numpy as jnp
import numpy as np

import mtlgrad_jax as mtl
from benchmarks.solver_vs_peers import draw, exact_mgda


def worst(num_tasks, decades, num_draws=10):
    """Return the largest excess of ‖u‖² and the smallest cosine with a task."""
    excesses, cosines = [], []
    for seed in range(num_draws):
        task_grads = draw(num_tasks, decades, seed)
        rows = task_grads.astype(np.float64)
        gram = mtl.jacobians.stacked.gram(jnp.asarray(task_grads))
        update = np.asarray(mtl.weightings.mgda(gram), np.float64) @ rows
        best = exact_mgda(rows)
        excesses.append(update @ update / (best @ best) - 1)
        cosines.append((rows @ update / np.linalg.norm(rows, axis=1) / np.linalg.norm(update)).min())
    return max(excesses), min(cosines)


def main():
    met = True
    for num_tasks in (2, 3, 8, 32, 100):
        for decades in (0, 4, 12):
            excess, cosine = worst(num_tasks, decades)
            met &= excess <= 2e-6 and cosine >= -1e-5
            print(
                f"T={num_tasks:<4d} decades={decades:<3d} excess {excess:8.0e}  worst cosine {cosine:+.1e}", flush=True
            )
    print("met" if met else "MISSED")


if __name__ == "__main__":
    main()
