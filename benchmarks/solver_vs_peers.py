"""Claim to reach: one weighting call is five times faster than TorchJD's at every T, and exact where theirs is not.

    pip install "torch==2.13.0" "torchjd[full]==0.18.0" quadprog
    python -m benchmarks.solver_vs_peers [--quick] [--out FOLDER]

One call on a ready float32 Gram matrix, ours jitted, theirs with their defaults, on the CPU; interleaved rounds in one
process, medians, and the ratio of medians. Beside each time its error, judged in float64 against scipy's NNLS on J: the
excess of ‖u‖² for MGDA, the relative distance from the exact direction for UPGrad and DualProj. TorchJD's PCD stands
beside primary_aux as the nearest program; it has other constraints, so that no error is given.

No full run is recorded yet. A quick one (T = 2, 8) on a machine busy with other work met the claim for mgda and
primary_aux and missed it for upgrad and dualproj, which were one to two times as fast as the peer.
"""

import argparse
import json
import os
import statistics
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

import mtlgrad_jax as mtl

RESULTS = Path(__file__).parent / "results"
SIZES = (2, 4, 8, 16, 32, 64, 128)
TARGET = 5.0


def draw(num_tasks, decades, seed):
    rng = np.random.default_rng(seed)
    task_grads = rng.standard_normal((num_tasks, 2 * num_tasks + 20)) * 10 ** rng.uniform(-decades, 0, (num_tasks, 1))
    return task_grads.astype(np.float32)


def project(rows, vector):
    """Return the nearest vector that hurts no row."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return vector + unit.T @ nnls(unit.T, -vector, maxiter=100 * len(rows))[0]


def exact_mgda(rows):
    lengths = np.linalg.norm(rows, axis=1)
    ratio = lengths.min() / lengths
    matrix = np.concatenate([(rows / lengths[:, None]).T, ratio[None]])
    x, _ = nnls(matrix, np.eye(len(matrix))[-1], maxiter=100 * len(rows))
    weights = x * ratio / np.sum(x * ratio)
    return weights @ rows


def excess(rows, weights):
    update, best = weights @ rows, exact_mgda(rows)
    return update @ update / (best @ best) - 1


def distance(exact):
    def judge(rows, weights):
        best = exact(rows)
        return np.linalg.norm(weights @ rows - best) / np.linalg.norm(best)

    return judge


def methods():
    from torchjd import aggregation as torchjd

    upgrad = distance(lambda rows: np.mean([project(rows, row) for row in rows], axis=0))
    dualproj = distance(lambda rows: project(rows, rows.mean(axis=0)))
    return {
        "mgda": (mtl.weightings.mgda, torchjd.MGDA().gramian_weighting, excess),
        "upgrad": (mtl.weightings.upgrad, torchjd.UPGrad().gramian_weighting, upgrad),
        "dualproj": (mtl.weightings.dualproj, torchjd.DualProj().gramian_weighting, dualproj),
        "primary_aux": (mtl.weightings.primary_aux, torchjd.PCD().gramian_weighting, None),
    }


def seconds_per_call(call, budget):
    """Return the mean time of one call over about `budget` seconds."""
    start = time.perf_counter()
    call()
    repeats = max(1, int(budget / max(time.perf_counter() - start, 1e-6)))
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def compare(name, ours, theirs, judge, num_tasks, decades, rounds, budget):
    import torch

    rows = draw(num_tasks, decades, seed=num_tasks)
    gram = jnp.asarray(rows @ rows.T)
    peer_gram = torch.from_numpy(rows @ rows.T)
    jitted = jax.jit(ours)
    our_call, their_call = lambda: jitted(gram).block_until_ready(), lambda: theirs(peer_gram)
    weights, peer_weights = np.asarray(our_call(), np.float64), their_call().numpy().astype(np.float64)
    times = [(seconds_per_call(our_call, budget), seconds_per_call(their_call, budget)) for _ in range(rounds)]
    mine, peer = (statistics.median(column) for column in zip(*times, strict=True))
    wide = rows.astype(np.float64)
    return {
        "method": name,
        "num_tasks": num_tasks,
        "decades": decades,
        "ours_us": mine * 1e6,
        "theirs_us": peer * 1e6,
        "ratio": peer / mine,
        "our_error": judge and float(judge(wide, weights)),
        "their_error": judge and float(judge(wide, peer_weights)),
        "met": peer / mine >= TARGET,
    }


def show(row):
    error = lambda value: "–" if value is None else f"{value:.0e}"
    print(
        f"{row['method']:12s} T={row['num_tasks']:<4d} decades={row['decades']}  {row['ours_us']:9.1f} µs "
        f"{row['theirs_us']:11.1f} µs  {row['ratio']:7.1f}×  error {error(row['our_error']):>6s} "
        f"{error(row['their_error']):>6s}  {'met' if row['met'] else 'MISSED'}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes, two short rounds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sizes, rounds, budget = ((2, 8), 2, 0.01) if options.quick else (SIZES, 7, 0.1)
    rows = []
    for num_tasks in sizes:
        for name, (ours, theirs, judge) in methods().items():
            for decades in (0, 4):
                rows.append(compare(name, ours, theirs, judge, num_tasks, decades, rounds, budget))
                show(rows[-1])
    missed = [row for row in rows if not row["met"]]
    print(f"{len(rows) - len(missed)} of {len(rows)} comparisons at {TARGET:.0f}× or more.")
    options.out.mkdir(parents=True, exist_ok=True)
    machine = {"device": str(jax.devices()[0]), "jax": jax.__version__, "cores": os.cpu_count()}
    (options.out / "solver_vs_peers.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
