"""Claim: from P = 1e6 on an update costs at most ten times reading its gradients twice, whatever the number of tasks.

    python -m benchmarks.scaling_in_tasks_and_parameters [--quick] [--out FOLDER]

The whole jitted `update` of mgda, primary_aux and upgrad on one leaf of shape (T, P), on whatever device JAX finds,
beside the time of reading J twice there (two jitted sums over its rows, PyTorch and NumPy left out: this is the
script for owners of an accelerator). Accuracy: the certificate in the state. Its figure shows the time over P.

Last figures (jax 0.10.2, two cores of an AMD EPYC):

       T         P  read twice us         mgda us     gap  primary_aux us     gap       upgrad us     gap
       2     10000           19.6            38.7   6e-08            39.3   0e+00            39.8   0e+00
       2    100000           25.8           109.3   6e-08           103.4   0e+00           103.4   0e+00
       2   1000000          167.7           982.7   0e+00           832.8   0e+00           924.2   0e+00
       2  10000000         3584.2         28596.6   6e-08         28647.5   0e+00         28367.7   0e+00
       8     10000           44.1            49.7   3e-08            48.9   0e+00            45.8   0e+00
       8    100000          103.5           653.4   9e-08           505.3   0e+00           490.0   0e+00
       8   1000000         1407.6          5580.2   3e-08          5408.5   0e+00          5225.3   0e+00
       8  10000000        17668.5         66407.1   6e-08         59816.9   0e+00         56839.4   0e+00
      32     10000           53.7           189.1   7e-08           188.8   0e+00           224.8   0e+00
      32    100000          328.9          3135.2   6e-08          3067.5   0e+00          3148.8   0e+00
      32   1000000         7361.3         29377.4   2e-07         28882.1   0e+00         28463.2   0e+00
     128     10000          100.0          1495.7   7e-08          1370.9   0e+00          2980.0   0e+00
     128    100000         2359.3         17655.9   1e-07         18408.5   0e+00         18725.5   0e+00
     128   1000000        29237.9        164188.6   1e-07        136450.4   0e+00        128752.9   0e+00

Outcome: met, at 3.2 to 8.0 times; the number of tasks hardly matters beside the size of J. The solvers show at P = 1e4
only, and there UPGrad's 128 programs.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp

import mtlgrad_jax as mtl
from benchmarks.timing import dispatch_in_this_thread, machine, medians, tried, waiting

RESULTS = Path(__file__).parent / "results"
METHODS = ("mgda", "primary_aux", "upgrad")
TASKS = (2, 8, 32, 128)
PARAMETERS = (10**4, 10**5, 10**6, 10**7)
MAX_BYTES = 2**29  # of J
TARGET = 10.0


def study(num_tasks, size, rounds, budget):
    noise, shared = (jax.random.normal(jax.random.key(seed), (rows, size)) for seed, rows in enumerate((num_tasks, 1)))
    task_grads = noise + 0.5 * shared
    transforms = {name: getattr(mtl, name)(num_tasks=num_tasks) for name in METHODS}
    states = {name: transform.init(task_grads[0]) for name, transform in transforms.items()}
    calls = {name: waiting(jax.jit(tx.update), task_grads, states[name]) for name, tx in transforms.items()}
    gaps = {name: float(call()[1].gap) for name, call in calls.items()}
    calls["read once"] = waiting(jax.jit(lambda rows: jnp.sum(rows, axis=1)), task_grads)
    seconds = medians(calls, rounds, budget)
    return {
        "num_tasks": num_tasks,
        "num_params": size,
        "read twice us": round(2e6 * seconds["read once"], 1),
        **{f"{name} us": round(1e6 * seconds[name], 1) for name in METHODS},
        **{f"{name} gap": gaps[name] for name in METHODS},
    }


def table(rows):
    lines = ["   T         P  read twice us" + "".join(f"{name + ' us':>16s}{'gap':>8s}" for name in METHODS)]
    for row in rows:
        cells = "".join(f"{row[f'{name} us']:16.1f}{row[f'{name} gap']:8.0e}" for name in METHODS)
        lines.append(f"{row['num_tasks']:4d}{row['num_params']:10d}{row['read twice us']:15.1f}{cells}")
    return "\n".join(lines)


def draw(rows, path):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    colors = ("#0072B2", "#009E73", "#D55E00", "#CC79A7")  # Okabe and Ito
    for color, num_tasks in zip(colors, sorted({row["num_tasks"] for row in rows}), strict=False):
        own = [row for row in rows if row["num_tasks"] == num_tasks]
        sizes = [row["num_params"] for row in own]
        axes.loglog(sizes, [row["mgda us"] / 1e3 for row in own], "o-", color=color, label=f"mgda, T = {num_tasks}")
        axes.loglog(sizes, [row["read twice us"] / 1e3 for row in own], "--", color=color, linewidth=1)
    axes.loglog([], [], "k--", linewidth=1, label="reading J twice")
    axes.set(xlabel="number of parameters P", ylabel="milliseconds", title="One update, and reading its input twice")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, short rounds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    dispatch_in_this_thread()
    tasks, parameters = ((2, 8), (10**3, 10**4)) if options.quick else (TASKS, PARAMETERS)
    rounds, budget = (2, 0.01) if options.quick else (5, 0.1)
    sizes = [(count, size) for count in tasks for size in parameters if 4 * count * size <= MAX_BYTES]
    rows = [study(*pair, rounds, budget) for pair in sizes]
    print(table(rows))
    times = [row[f"{name} us"] / row["read twice us"] for row in rows for name in METHODS if row["num_params"] >= 10**6]
    if times:
        verdict = "met" if max(times) <= TARGET else "missed"
        print(f"From P = 1e6 on {min(times):.1f} to {max(times):.1f} times reading J twice: {verdict}")
    print(tried(__doc__))
    options.out.mkdir(parents=True, exist_ok=True)
    name = "scaling_in_tasks_and_parameters"
    (options.out / f"{name}.json").write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    draw(rows, options.out / f"{name}.png")


if __name__ == "__main__":
    main()
