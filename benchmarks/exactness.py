"""Claim: MGDA's weights from a float32 Gram matrix are exact to 2e-6 in ‖u‖², no cosine below -1e-5.

    python -m benchmarks.exactness [--quick] [--out FOLDER]

Judged in float64 against scipy's NNLS on J, Gaussian gradients with lengths spread over 0, 4 and 12 decades, ten draws.
"""

import argparse
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import mtlgrad_jax as mtl
from benchmarks.solver_vs_peers import draw, exact_mgda

RESULTS = Path(__file__).parent / "results"
EXCESS, COSINE = 2e-6, -1e-5


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


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="up to eight tasks, two draws")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sizes, num_draws = ((2, 8), 2) if options.quick else ((2, 3, 8, 32, 100), 10)
    rows = []
    for num_tasks in sizes:
        for decades in (0, 4, 12):
            excess, cosine = worst(num_tasks, decades, num_draws)
            rows.append({"num_tasks": num_tasks, "decades": decades, "excess": excess, "worst cosine": cosine})
            print(
                f"T={num_tasks:<4d} decades={decades:<3d} excess {excess:8.0e}  worst cosine {cosine:+.1e}", flush=True
            )
    print("met" if all(row["excess"] <= EXCESS and row["worst cosine"] >= COSINE for row in rows) else "MISSED")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "exactness.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
