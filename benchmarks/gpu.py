"""Claim to reach on a GPU: 75 % of its copy bandwidth for P of 1e7 or more, and an update within 200 us.

    python -m benchmarks.gpu [--quick] [--out FOLDER]

Gram matrix plus combination of T = 8 stacked gradients read J twice and write P numbers; their bytes a second are
compared with those of a copy of the same J, measured in the same run. The second figure is the latency of the whole
`update` of mgda at T = 8, P = 1e6. Accuracy: the certificate, and the Gram matrix against one in float64 from NumPy.
Without a GPU nothing is measured, and the results file says so.

Last run: not measured, no GPU was at hand.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import mtlgrad_jax as mtl
from benchmarks.timing import machine, medians, waiting
from mtlgrad_jax.jacobians import stacked

RESULTS = Path(__file__).parent / "results"
NUM_TASKS = 8


def bandwidth(size, rounds):
    """Compare the passes over J with a copy of it."""
    task_grads = jax.random.normal(jax.random.key(0), (NUM_TASKS, size))
    weights = jnp.full(NUM_TASKS, 1 / NUM_TASKS)
    calls = {
        "copy": waiting(jax.jit(lambda rows: rows + 0), task_grads),
        "gram": waiting(jax.jit(stacked.gram), task_grads),
        "combine": waiting(jax.jit(stacked.combine), task_grads, weights),
    }
    exact = np.asarray(task_grads, np.float64)
    exact = exact @ exact.T
    error = np.max(np.abs(np.asarray(calls["gram"]()) - exact)) / np.max(exact)
    seconds = medians(calls, rounds)
    copied = 2 * task_grads.nbytes / seconds["copy"]
    ours = (2 * task_grads.nbytes + 4 * size) / (seconds["gram"] + seconds["combine"])
    return {
        "num_params": size,
        "copy GB/s": round(copied / 1e9, 1),
        "gram and combine GB/s": round(ours / 1e9, 1),
        "share": round(ours / copied, 3),
        "gram error": float(error),
    }


def latency(size, rounds):
    task_grads = jax.random.normal(jax.random.key(0), (NUM_TASKS, size))
    transform = mtl.mgda(num_tasks=NUM_TASKS)
    call = waiting(jax.jit(transform.update), task_grads, transform.init(task_grads[0]))
    gap = float(call()[1].gap)
    return {"num_params": size, "update us": round(1e6 * medians({"update": call}, rounds)["update"], 1), "gap": gap}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, on whatever device there is; no verdict")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sizes, size, rounds = ((10**4,), 10**3, 2) if options.quick else ((10**7, 5 * 10**7), 10**6, 9)
    results = {"machine": machine()}
    if jax.default_backend() == "gpu" or options.quick:
        results |= {"bandwidth": [bandwidth(size, rounds) for size in sizes], "latency": latency(size, rounds)}
        share, microseconds = results["bandwidth"][0]["share"], results["latency"]["update us"]
        print(f"bandwidth: {share:.0%} of a copy's ({'met' if share >= 0.75 else 'missed'})")
        print(f"update: {microseconds} us ({'met' if microseconds <= 200 else 'missed'})")
    else:
        results["not measured"] = "no GPU was at hand"
        print("Not measured: no GPU was at hand.")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
