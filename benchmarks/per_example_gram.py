"""Claim: the Gram matrix of 256 examples on a network of a million parameters needs no example's gradient.

    python -m benchmarks.per_example_gram [--quick] [--out FOLDER]

Network: MLP with 4 layers of 512, batch 256; all example gradients together are 1 GB. Beside it the same network with
kernels that `jacobians.structured` does not recognise as such (multiplied by one), which go block by block. Memory is
read off the compiled programs (temporary and output bytes), time is the median of interleaved runs, error is the
largest one of an inner product relative to the lengths of the two gradients, against the products of the gradients in
float64. Last figures of memory (jax 0.10.2; times have not been taken on a machine without other work):

                           MB
    gram                 11.0
    gram, blocks of 8    72.3
    gram, blocks of 32  288.3
    combine               5.0

Outcome: layer by layer the Gram matrix needs activations only, and no gradient of an example.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import medians, waiting
from mtlgrad_jax.jacobians import per_example

RESULTS = Path(__file__).parent / "results"


def loss_fn(params, example):
    x, y = example
    for weight in params:
        x = jnp.tanh(x @ weight)
    return jnp.sum((x - y) ** 2)


def problem(width, num_examples):
    keys = jax.random.split(jax.random.key(0), 6)
    params = [jax.random.normal(key, (width, width)) / width**0.5 for key in keys[:4]]
    return params, tuple(jax.random.normal(key, (num_examples, width)) for key in keys[4:])


def gram(params, examples):
    return per_example.linearize(loss_fn, params, examples)[1].gram()


def gram_in_blocks(params, examples, chunk_size):
    unrecognised = lambda params, example: loss_fn([weight * 1 for weight in params], example)
    return per_example.linearize(unrecognised, params, examples, chunk_size=chunk_size)[1].gram()


def combination(params, examples):
    losses, jac = per_example.linearize(loss_fn, params, examples)
    return jac.combine(losses)


def in_double(params, examples):
    """Return the products of the float32 gradients, summed in float64."""
    rows = jax.jit(jax.vmap(jax.grad(loss_fn), (None, 0)))(params, examples)
    total = 0.0
    for leaf in rows:
        flat = np.asarray(leaf).reshape(len(leaf), -1).astype(np.float64)
        total = total + flat @ flat.T
    return total


def study(width, num_examples, chunk_sizes, rounds):
    args = problem(width, num_examples)
    functions = {"gram": gram}
    functions |= {f"gram, blocks of {size}": partial(gram_in_blocks, chunk_size=size) for size in chunk_sizes}
    functions["combine"] = combination
    programs = {name: jax.jit(function).lower(*args).compile() for name, function in functions.items()}
    wanted = in_double(*args)
    lengths = np.sqrt(np.diagonal(wanted))
    rows = {}
    for name, program in programs.items():
        used = program.memory_analysis()
        rows[name] = {"megabytes": round((used.temp_size_in_bytes + used.output_size_in_bytes) / 2**20, 1)}
        result = jax.block_until_ready(program(*args))
        if name != "combine":
            rows[name]["error"] = float(np.max(np.abs(np.asarray(result) - wanted) / np.outer(lengths, lengths)))
    seconds = medians({name: waiting(program, *args) for name, program in programs.items()}, rounds, budget=0)
    for name, value in seconds.items():
        rows[name]["seconds"] = round(value, 3)
    return rows


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a narrow network and few examples")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sizes = {"width": 64, "num_examples": 16, "chunk_sizes": (4,), "rounds": 1}
    if not options.quick:
        sizes = {"width": 512, "num_examples": 256, "chunk_sizes": (8, 32), "rounds": 3}
    rows = study(**sizes)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "per_example_gram.json").write_text(json.dumps({"sizes": sizes, "rows": rows}, indent=2) + "\n")
    for name, row in rows.items():
        print(name, row)


if __name__ == "__main__":
    main()
