"""Claim: the step of `guard` is within 1e-5 of its program's solution, and has no cosine below -1e-5 with a task.

    python -m benchmarks.guarded_exactness [--quick] [--out FOLDER]

Judged in float64 against `quadprog` on the program as it is stated, in the parameters, both metrics; the distance is
relative to the unguarded step. Gaussian gradients with lengths spread over 0 and 4 decades, ten draws.
"""

import argparse
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mtlgrad_jax as mtl
from benchmarks.solver_vs_peers import draw

RESULTS = Path(__file__).parent / "results"
DISTANCE, COSINE = 1e-5, -1e-5

guarded = jax.jit(mtl.guard_step, static_argnames="metric")


def nearest_by_quadprog(rows, step, scales):
    """Return argmin ½‖Δ′ − Δ‖²_{D⁻¹} s.t. ⟨gᵢ,Δ′⟩ ≥ 0 in float64."""
    import quadprog

    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return quadprog.solve_qp(np.diag(1 / scales), step / scales, unit.T, np.zeros(len(rows)))[0]


def worst_guarded(num_tasks, decades, metric, num_draws=10):
    """Return the largest distance from the exact step, relative to Δ, and the smallest cosine with a task."""
    distances, cosines = [], []
    for seed in range(num_draws):
        task_grads = draw(num_tasks, decades, seed)
        rows = task_grads.astype(np.float64)
        rng = np.random.default_rng(seed)
        conflict = (rows / np.linalg.norm(rows, axis=1, keepdims=True))[: 1 + num_tasks // 2].mean(axis=0)
        step = (rng.standard_normal(rows.shape[1]) / np.sqrt(rows.shape[1]) - conflict).astype(np.float32)
        roots = 2.0 ** rng.integers(-5, 1, rows.shape[1])  # of ν, powers of two: D is the same in both precisions
        scales = np.ones_like(roots) if metric == "euclidean" else 1 / (roots / roots.max() + 2.0**-10)
        state = optax.ScaleByAdamState(jnp.zeros((), jnp.int32), mu=(), nu=jnp.asarray(roots**2, jnp.float32))
        jac = mtl.jacobians.stacked.Stacked(jnp.asarray(task_grads))
        updates, _ = guarded(jac, -jnp.asarray(step), state, metric=metric)
        taken = -np.asarray(updates, np.float64)
        best = nearest_by_quadprog(rows, step.astype(np.float64), scales)
        distances.append(np.linalg.norm(taken - best) / np.linalg.norm(step))
        cosines.append((rows @ taken / np.linalg.norm(rows, axis=1) / np.linalg.norm(taken)).min())
    return max(distances), min(cosines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tasks and draws")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sizes, num_draws = ((2, 8), 2) if options.quick else ((2, 3, 8, 32, 64), 10)
    rows = []
    for num_tasks, decades, metric in itertools.product(sizes, (0, 4), ("euclidean", "optimizer")):
        distance, cosine = worst_guarded(num_tasks, decades, metric, num_draws)
        cell = {"num_tasks": num_tasks, "decades": decades, "metric": metric}
        rows.append(cell | {"distance": distance, "worst cosine": cosine})
        print(f"T={num_tasks:<4d} decades={decades:<3d} {metric:10s} distance {distance:8.0e}  cosine {cosine:+.1e}")
    met = all(row["distance"] <= DISTANCE and row["worst cosine"] >= COSINE for row in rows)
    print("met" if met else "MISSED")
    options.out.mkdir(parents=True, exist_ok=True)
    stored = {"rows": rows, "met": met}
    (options.out / "guarded_exactness.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
