"""Claim: with a memory limit that T gradients exceed, matrix-free training runs where stacked training cannot.

    python -m benchmarks.train_in_little_memory [--quick] [--out FOLDER]

A network of 16 MB and 64 tasks, whose stacked gradients are 1024 MB, trained by MGDA and Adam. Once the optimiser's
state and the compiled step exist, the process may allocate 512 MB more (RLIMIT_DATA, Linux). Last figures (jax 0.10.2):

    stacked      RESOURCE_EXHAUSTED: Out of memory allocating 1124165872 bytes
    matrix-free  mean loss 2.184, 1.845, 1.615, 1.433, 1.285 in five steps
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import mtlgrad_jax as mtl

DEPTH, BATCH, STEPS = 4, 64, 5
METHODS = ("stacked", "matrix_free")


def losses_fn(params, x, y):
    for weight in params["trunk"]:
        x = jax.nn.relu(x @ weight)
    return jnp.mean((x @ params["heads"] - y) ** 2, axis=0)


def problem(width, num_tasks):
    keys = jax.random.split(jax.random.key(0), DEPTH + 3)
    trunk = [jax.random.normal(key, (width, width)) * (2 / width) ** 0.5 for key in keys[:DEPTH]]
    params = {"trunk": trunk, "heads": jax.random.normal(keys[-3], (width, num_tasks)) / width**0.5}
    return params, jax.random.normal(keys[-2], (BATCH, width)), jax.random.normal(keys[-1], (BATCH, num_tasks))


def allow_more(megabytes):
    """Limit the data of this process to what it has now and so much more."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limit = int(status["VmData"].split()[0]) * 1024 + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def train(method, width, num_tasks, megabytes):
    """Print the mean loss of every step as JSON."""
    params, x, y = problem(width, num_tasks)
    tx = optax.adam(1e-4)

    def step(params, state):
        losses, update, _ = mtl.descent_direction(losses_fn, params, mtl.weightings.mgda, x, y, method=method)
        updates, state = tx.update(update, state, params)
        return optax.apply_updates(params, updates), state, jnp.mean(losses)

    state = tx.init(params)
    step = jax.jit(step, donate_argnums=(0, 1)).lower(params, state).compile()
    allow_more(megabytes)
    history = []
    for _ in range(STEPS):
        params, state, loss = step(params, state)
        history.append(float(loss))
    print(json.dumps(history))


def attempt(method, width, num_tasks, megabytes):
    """Train in a process of its own; return its losses, or what it died of."""
    options = [method, f"--width={width}", f"--num-tasks={num_tasks}", f"--megabytes={megabytes}"]
    run = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True)
    if run.returncode == 0:
        return {"losses": json.loads(run.stdout.splitlines()[-1])}
    return {"returncode": run.returncode, "error": (run.stderr.strip().splitlines() or [""])[-1][-200:]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "method", nargs="?", choices=METHODS, help="train in this process; both in new ones if left out"
    )
    parser.add_argument("--quick", action="store_true", help="half the width, a quarter of the memory")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--num-tasks", type=int, default=64)
    parser.add_argument("--megabytes", type=int, default=512)
    options = vars(parser.parse_args())
    quick, out, method = (options.pop(name) for name in ("quick", "out", "method"))
    if method:
        return train(method, **options)
    if quick:
        options |= {"width": options["width"] // 2, "megabytes": options["megabytes"] // 4}
    results = {
        "parameters_MB": 4 * DEPTH * options["width"] ** 2 / 2**20,
        "stacked_gradients_MB": 4 * DEPTH * options["width"] ** 2 * options["num_tasks"] / 2**20,
        **options,
        **{method: attempt(method, **options) for method in METHODS},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "train_in_little_memory.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
