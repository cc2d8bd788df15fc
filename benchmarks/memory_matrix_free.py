"""Claim: holding J as a linear map costs the memory of one gradient, whatever T is, and at most half the time on top.

    python -m benchmarks.memory_matrix_free [--quick] [--out FOLDER]

Memory is read off the compiled programs: temporary plus output bytes of losses, G, MGDA and u on a network of 16 MB
(4 layers of 1024, batch 64). Time is the median of interleaved steps on a trunk of 3 x 1024, batch 256, T = 40; only
ratios within one run count. Last figures (jax 0.10.2, two cores of an AMD EPYC):

    MB                                       T = 16  T = 64
    plain gradient                             17.3    17.5
    stacked                                   273.1  1088.4
    stacked, chunk_size=1                     273.1  1057.1
    matrix-free                                19.1    19.6
    matrix-free, chunk_size=4                  98.4    98.9
    matrix-free, mode="reverse", chunk_size=4 194.6   194.6

    time relative to stacked: stacked, chunk_size=1 1.12, matrix-free 1.40
    time relative to the plain gradient of the summed losses: shared encoder 2.07, with chunk_size=8 1.36

Outcome: matrix-free needs 2 MB more than the plain gradient, and a second sweep that the stack does not make. It was
faster than the stack (.74), which took twice the memory, as long as XLA left gradients of dense layers transposed and
they had to be turned around: now the backward pass writes them row by row. The shared encoder is at 1.4 times the plain
gradient with chunk_size=8: on a trunk of three layers, T passes through the heads weigh almost as much as one layer.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

import mtlgrad_jax as mtl
from benchmarks.timing import medians, waiting
from mtlgrad_jax.jacobians import matrix_free, shared_encoder, stacked

RESULTS = Path(__file__).parent / "results"
METHODS = {
    "stacked": stacked.linearize,
    "stacked, chunk_size=1": partial(stacked.linearize, chunk_size=1),
    "matrix-free": matrix_free.linearize,
    "matrix-free, chunk_size=4": partial(matrix_free.linearize, chunk_size=4),
    "matrix-free, mode=reverse, chunk_size=4": partial(matrix_free.linearize, mode="reverse", chunk_size=4),
}


def encoder_fn(trunk, x, y):
    for weight in trunk:
        x = jax.nn.relu(x @ weight)
    return x


def heads_fn(heads, representation, x, y):
    return jnp.mean((representation @ heads - y) ** 2, axis=0)


def losses_fn(params, x, y):
    trunk, heads = params
    return heads_fn(heads, encoder_fn(trunk, x, y), x, y)


def plain(params, x, y):
    """The gradient of the summed losses, what a step costs without any aggregation."""
    return jax.value_and_grad(lambda params: jnp.sum(losses_fn(params, x, y)))(params)


def direction(linearize):
    return lambda *args: mtl.descent_direction(losses_fn, args[0], mtl.weightings.mgda, *args[1:], method=linearize)


def at_the_encoder(losses_fn, params, *args, has_aux, chunk_size):
    del losses_fn  # in two parts here
    return shared_encoder.linearize(encoder_fn, heads_fn, params, *args, has_aux=has_aux, chunk_size=chunk_size)


def problem(depth, width, batch, num_tasks):
    keys = jax.random.split(jax.random.key(0), depth + 3)
    trunk = [jax.random.normal(key, (width, width)) * (2 / width) ** 0.5 for key in keys[:depth]]
    heads = jax.random.normal(keys[-3], (width, num_tasks)) / width**0.5
    return (trunk, heads), jax.random.normal(keys[-2], (batch, width)), jax.random.normal(keys[-1], (batch, num_tasks))


def compiled(function, args):
    return jax.jit(function).lower(*args).compile()


def megabytes(function, args):
    used = compiled(function, args).memory_analysis()
    return round((used.temp_size_in_bytes + used.output_size_in_bytes) / 2**20, 1)


def memory(num_tasks, width):
    args = jax.eval_shape(partial(problem, 4, width, 64, num_tasks))
    return {"plain gradient": megabytes(plain, args)} | {
        name: megabytes(direction(linearize), args) for name, linearize in METHODS.items()
    }


def times(functions, args, rounds):
    """Return the median seconds of each function, called in turns."""
    return medians({name: waiting(compiled(step, args), *args) for name, step in functions.items()}, rounds, budget=0)


def ratios(seconds, to):
    return {name: round(value / seconds[to], 3) for name, value in seconds.items()}


def study(width, num_tasks, rounds):
    args = problem(3, width, 256, num_tasks)
    slow = times(
        {name: direction(METHODS[name]) for name in ("stacked", "stacked, chunk_size=1", "matrix-free")}, args, rounds
    )
    shared = {
        f"shared encoder, chunk_size={size}": direction(partial(at_the_encoder, chunk_size=size)) for size in (None, 8)
    }
    fast = times({"plain gradient": plain} | shared, args, 5 * rounds)
    return {
        "megabytes": {f"T={count}": memory(count, width) for count in (16, 64)},
        "T": num_tasks,
        "seconds": slow | fast,
        "relative to stacked": ratios(slow, "stacked"),
        "relative to the plain gradient": ratios(fast, "plain gradient"),
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a narrow network, few tasks, one round")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    results = study(width=128, num_tasks=8, rounds=1) if options.quick else study(width=1024, num_tasks=40, rounds=3)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "memory_matrix_free.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
