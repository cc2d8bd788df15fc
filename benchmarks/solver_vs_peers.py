"""Claim to reach: one weighting call is five times faster than TorchJD's at every T, and exact where theirs is not.

    pip install "torch==2.13.0" "torchjd[full]==0.18.0" quadprog qpax
    python -m benchmarks.solver_vs_peers [--quick] [--out FOLDER]

One call on a ready float32 Gram matrix, ours jitted, theirs with their defaults, on the CPU; the two take turns in one
process, medians, and the ratio of medians. Beside each time its error, judged in float64 against scipy's NNLS on J:
the excess of ‖u‖² for MGDA, the relative distance from the exact direction for UPGrad and DualProj. TorchJD's PCD
stands beside primary_aux as the nearest program; it has other constraints, so that no error is given. DualProj's
program is also given to quadprog (float64, called directly) and to qpax (jitted). Ours run in the calling thread, as
the peers do (see `timing.dispatch_in_this_thread`).

Last figures (jax 0.10.2, TorchJD 0.18.0, two cores of an AMD EPYC):

    times as fast as TorchJD         T=2     T=4     T=8    T=16    T=32    T=64   T=128
    mgda                            11.3    38.7   208.0   164.5   139.1    24.4     9.4
    mgda, 4 decades                 10.8    10.9    14.0     3.6    11.7     3.2     2.6
    upgrad                          16.4     9.5     8.2     5.7     4.2     6.3    12.9
    upgrad, 4 decades               16.2     9.5     8.6     5.7     4.3     7.5    13.2
    dualproj                        13.0     8.1     6.7     6.7     8.4    11.2    40.5
    dualproj, 4 decades             12.8     7.1     6.9     5.6     7.4    12.4    22.4
    primary_aux                     36.6    33.9    27.6    55.2   103.7    30.2   167.4
    primary_aux, 4 decades          36.5    34.7    42.5    59.6   142.1    38.2   419.2

Outcome: 51 of 56 at five times or more; our largest error is 6e-7. MGDA misses, at 2.6 to 3.6, where the peer stops
early (four decades, T = 16, 64 and 128: its squared length is 270 to 37000 times the least), UPGrad at T = 32, at 4.2:
32 programs one after the other, 19 us each. UPGrad takes 1.1 to 1.2 times, DualProj at T = 8 1.5 times what they took
with an earlier solver, whose slopes had half the bits; DualProj from T = 64 on takes .75 of it.
What cost most was not arithmetic: a loop that carried eleven small arrays took 40 kernels and copies a turn, which
XLA's CPU runs on several threads wherever a buffer is larger than 512 bytes, and these waited for each other for 50 us.
One array of floats and one of integers take 27, and hardly wait: in one run DualProj at T = 8 went from 106 to 19 us,
CAGrad at T = 16 from 162 to 76. Tried without gain: inverses by sweeps in place of Cholesky factors, the inverse of the
factor in place of substitutions, XLA's flags for its products. quadprog itself, in float64, takes 16 to 34 us up to
T = 16 and 5 to 17 ms at T = 128; qpax, in float32, is off by up to 1.7.
"""

import argparse
import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

import mtlgrad_jax as mtl
from benchmarks.timing import dispatch_in_this_thread, machine, medians, tried, waiting

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
    """Return per method: ours, the peers' names and calls on a float32 NumPy Gram matrix, and the judge."""
    import torch
    from torchjd import aggregation as torchjd

    def theirs(aggregator):
        def prepare(gram):
            tensor = torch.from_numpy(gram)
            return lambda: aggregator.gramian_weighting(tensor).numpy()

        return {"TorchJD": prepare}

    upgrad = distance(lambda rows: np.mean([project(rows, row) for row in rows], axis=0))
    dualproj = distance(lambda rows: project(rows, rows.mean(axis=0)))
    return {
        "mgda": (mtl.weightings.mgda, theirs(torchjd.MGDA()), excess),
        "upgrad": (mtl.weightings.upgrad, theirs(torchjd.UPGrad()), upgrad),
        "dualproj": (
            mtl.weightings.dualproj,
            {**theirs(torchjd.DualProj()), "quadprog": with_quadprog, "qpax": with_qpax},
            dualproj,
        ),
        "primary_aux": (mtl.weightings.primary_aux, theirs(torchjd.PCD()), None),
    }


def with_quadprog(gram):
    import quadprog

    gram, share = gram.astype(np.float64), np.full(len(gram), 1 / len(gram))

    def call():  # the dual program itself; quadprog wants a strictly convex one
        ridge = np.finfo(np.float64).eps * np.trace(gram) * np.eye(len(gram))
        return share + quadprog.solve_qp(gram + ridge, -gram @ share, np.eye(len(gram)), np.zeros(len(gram)))[0]

    return call


def with_qpax(gram):
    import qpax

    def weigh(gram):
        share = jnp.full(len(gram), 1 / len(gram))
        none = jnp.zeros((0, len(gram))), jnp.zeros(0)
        return share + qpax.solve_qp(gram, gram @ share, *none, -jnp.eye(len(gram)), jnp.zeros(len(gram)))[0]

    jitted, gram = jax.jit(weigh), jnp.asarray(gram)
    return lambda: jitted(gram).block_until_ready()


def compare(name, method, num_tasks, decades, rounds, budget):
    ours, peers, judge = method
    rows = draw(num_tasks, decades, seed=num_tasks)
    gram = rows @ rows.T
    calls = {"ours": waiting(jax.jit(ours), jnp.asarray(gram)), **{peer: of(gram) for peer, of in peers.items()}}
    error = {who: judge and float(judge(rows.astype(float), np.asarray(call(), float))) for who, call in calls.items()}
    seconds = medians(calls, rounds, budget)
    return [
        {
            "method": name,
            "peer": peer,
            "num_tasks": num_tasks,
            "decades": decades,
            "ours_us": round(seconds["ours"] * 1e6, 1),
            "theirs_us": round(seconds[peer] * 1e6, 1),
            "ratio": round(seconds[peer] / seconds["ours"], 2),
            "our_error": error["ours"],
            "their_error": error[peer],
            "met": seconds[peer] / seconds["ours"] >= TARGET,
        }
        for peer in peers
    ]


def show(row):
    error = lambda value: "-" if value is None else f"{value:.0e}"
    return (
        f"{row['method']:12s} {row['peer']:8s} T={row['num_tasks']:<4d} decades={row['decades']} "
        f"{row['ours_us']:9.1f} us {row['theirs_us']:11.1f} us {row['ratio']:7.1f}x  error "
        f"{error(row['our_error']):>6s} {error(row['their_error']):>6s}  {'met' if row['met'] else 'MISSED'}"
    )


def table(rows):
    """Return the ratios to TorchJD, one line per method and spread, one column per T."""
    sizes = sorted({row["num_tasks"] for row in rows})
    lines = ["times as fast as TorchJD    " + "".join(f"{f'T={size}':>8s}" for size in sizes)]
    for name, decades in dict.fromkeys((row["method"], row["decades"]) for row in rows):
        ratios = {
            row["num_tasks"]: row["ratio"]
            for row in rows
            if (row["method"], row["decades"], row["peer"]) == (name, decades, "TorchJD")
        }
        label = f"{name}, {decades} decades" if decades else name
        lines.append(f"{label:28s}" + "".join(f"{ratios[size]:8.1f}" for size in sizes))
    return "\n".join(lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes, two short rounds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    dispatch_in_this_thread()
    sizes, rounds, budget = ((2, 8), 2, 0.01) if options.quick else (SIZES, 7, 0.05)
    rows = []
    for num_tasks in sizes:
        for name, method in methods().items():
            for decades in (0, 4):
                rows += compare(name, method, num_tasks, decades, rounds, budget)
                print(show(rows[-1]), flush=True)
    print(table(rows))
    versus = [row for row in rows if row["peer"] == "TorchJD"]
    print(f"{sum(row['met'] for row in versus)} of {len(versus)} comparisons with TorchJD at {TARGET:.0f}x or more.")
    print(tried(__doc__))
    options.out.mkdir(parents=True, exist_ok=True)
    stored = {"machine": machine(), "rows": rows}
    (options.out / "solver_vs_peers.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
