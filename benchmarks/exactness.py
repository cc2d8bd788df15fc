"""Claim: weights of MGDA from a float32 Gram matrix are exact to 2e-6 in ‖u‖², no cosine below -1e-5; guard too.

    python -m benchmarks.exactness [--quick] [--out FOLDER]

Judged in float64 against scipy's NNLS on J, Gaussian gradients with lengths spread over 0, 4 and 12 decades, ten draws.
The step of `guard` against `quadprog` on the program as it is stated, in the parameters, both metrics: within 1e-5 of
the length of the unguarded step.
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
from benchmarks.solver_vs_peers import draw, exact_mgda

RESULTS = Path(__file__).parent / "results"
EXCESS, COSINE, DISTANCE = 2e-6, -1e-5, 1e-5


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


def guard_rows(sizes, num_draws):
    """Return rows of `guard` beside quadprog; none without it."""
    rows = []
    for num_tasks, decades, metric in itertools.product(sizes, (0, 4), ("euclidean", "optimizer")):
        try:
            distance, cosine = worst_guarded(num_tasks, decades, metric, num_draws)
        except ModuleNotFoundError:
            print("quadprog is not installed: the rows of guard are left out")
            return []
        cell = {"num_tasks": num_tasks, "decades": decades, "metric": metric}
        rows.append(cell | {"distance": distance, "worst cosine": cosine})
        print(
            f"guard T={num_tasks:<4d} decades={decades:<3d} {metric:10s} distance {distance:8.0e}  cosine {cosine:+.1e}"
        )
    return rows


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
    steps = guard_rows([size for size in sizes if size <= 64] + [64] * (not options.quick), num_draws)
    print("met" if all(row["distance"] <= DISTANCE and row["worst cosine"] >= COSINE for row in steps) else "MISSED")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "exactness.json").write_text(json.dumps({"rows": rows, "guarded steps": steps}, indent=1) + "\n")


if __name__ == "__main__":
    main()
