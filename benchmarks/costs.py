"""Claim: what a method needs is all that is paid for, in units of one backward pass of the summed loss.

    pip install "torch==2.13.0" "torchjd[full]==0.18.0"
    python -m benchmarks.costs [--quick] [--only examples|tasks] [--out FOLDER]

One plain step is `jax.value_and_grad` of the summed losses, compiled. `passes` is the median time of a program divided
by that of the plain step beside it, called in turns; `reach` is what was aimed at. Error is the largest one of an inner
product, relative to the lengths of the two gradients, against the products of `jax.jacrev`'s in float64 (only where
these fit). MB are temporaries, from the compiled program. TorchJD's Engine computes the same Gram matrix eagerly.

Examples: cross entropy of an MLP 64-512-512-512-10 with biases, of a CNN (three convolutions), a two-layer transformer
(32 tokens of 128) and a GRU (16 steps of 64). Tasks: T heads on a trunk of 3 × 1024, one batch of 256.

Last figures, in passes (jax 0.10.2, two cores with much other work: ratios move by a third from run to run):

                              Gram matrix  and an update  TorchJD's Engine
    MLP, 32 examples                  .35            .59               100
    MLP, 128 examples                1.35           1.21               169
    MLP, 256 examples                1.16           1.74               147
    CNN, 64 examples                 1.74           2.82
    transformer, 64 examples         1.12           1.62
    GRU, 64 examples                 2.54           2.90

                              Gram matrix           mgda    4 tasks at a time
    8 tasks                           4.7            5.3                  5.4
    16 tasks                          8.2           11.3                  8.6
    40 tasks (less other work)       21.4           19.6                 15.9

Outcome: within reach but for the GRU's Gram matrix, where R² products of gradients of 74,000 entries are most of the
work (R = 64 rows against 16 steps), and for 8 tasks (by a tenth) and 16 tasks without chunks.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import mtlgrad_jax as mtl
from benchmarks.timing import machine, medians, waiting
from mtlgrad_jax.jacobians import per_example, structured

RESULTS = Path(__file__).parent / "results"


class Program(NamedTuple):
    """Something to be timed beside a plain step."""

    run: Callable[..., Any]
    reach: float | None  # plain steps
    gram: bool  # whether it returns the Gram matrix, whose error is measured


class Setting(NamedTuple):
    """A network, its data and what is computed of it."""

    name: str
    losses: Callable[..., jax.Array]  # (params, data) -> (R,)
    args: tuple[Any, Any]
    programs: dict[str, Program]
    peer: Callable[[], Any] | None = None  # eager


def dense(params, x):
    for kernel, bias in params[:-1]:
        x = jax.nn.relu(x @ kernel + bias)
    return x @ params[-1][0] + params[-1][1]


def convolutional(params, image):
    image = image.reshape(1, 16, 16, 3)
    for kernel in params["convolutions"]:
        image = lax.conv_general_dilated(image, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        image = jax.nn.relu(image)
    return image.reshape(-1) @ params["head"]


def transformer(params, tokens):
    for layer in params["layers"]:
        query, key, value = (jnp.einsum("td,dhk->htk", layer_norm(tokens), layer[name]) for name in ("q", "k", "v"))
        mixed = jax.nn.softmax(query @ key.transpose(0, 2, 1) / key.shape[-1] ** 0.5) @ value
        tokens = tokens + jnp.einsum("htk,hkd->td", mixed, layer["out"])
        tokens = tokens + jax.nn.gelu(layer_norm(tokens) @ layer["up"]) @ layer["down"]
    return tokens.mean(0) @ params["head"]


def layer_norm(tokens):
    return (tokens - tokens.mean(-1, keepdims=True)) * lax.rsqrt(tokens.var(-1, keepdims=True) + 1e-3)


def gated(params, tokens):
    def cell(hidden, token):
        reset, update = jnp.split(jax.nn.sigmoid(token @ params["gates_in"] + hidden @ params["gates"]), 2)
        new = jnp.tanh(token @ params["new_in"] + (reset * hidden) @ params["new"])
        return update * hidden + (1 - update) * new, None

    return lax.scan(cell, jnp.zeros(params["new"].shape[0]), tokens)[0] @ params["head"]


def normal(key, *shape, fan_in=None):
    return jax.random.normal(key, shape) * (1 / (fan_in or shape[0])) ** 0.5


def keys(count):
    return iter(jax.random.split(jax.random.key(0), count))


def mlp_params(width):
    key, sizes = keys(4), [64, width, width, width, 10]
    return [(normal(next(key), m, n) * 2**0.5, jnp.zeros(n)) for m, n in zip(sizes, sizes[1:], strict=False)]


def cnn_params(width):
    key, sizes = keys(4), [3, width, width, width]
    kernels = [normal(next(key), 3, 3, m, n, fan_in=4 * m) for m, n in zip(sizes, sizes[1:], strict=False)]
    return {"convolutions": kernels, "head": normal(next(key), 4 * width, 10)}


def transformer_params(width):
    key, heads = keys(16), 4

    def layer():
        split = {name: normal(next(key), width, heads, width // heads) for name in ("q", "k", "v")}
        ends = {"up": normal(next(key), width, 4 * width), "down": normal(next(key), 4 * width, width)}
        return split | ends | {"out": normal(next(key), heads, width // heads, width, fan_in=width)}

    return {"layers": [layer(), layer()], "head": normal(next(key), width, 10)}


def gru_params(width):
    key = keys(5)
    kernels = {"gates_in": normal(next(key), 64, 2 * width), "gates": normal(next(key), width, 2 * width)}
    return kernels | {
        "new_in": normal(next(key), 64, width),
        "new": normal(next(key), width, width),
        "head": normal(next(key), width, 10),
    }


def of_examples(name, network, params, shape, num_examples, reach=(None, None), peer=None):
    """Return the setting of a classifier with one row of J for every example."""
    key = keys(2)
    data = (jax.random.normal(next(key), (num_examples, *shape)), jax.random.randint(next(key), (num_examples,), 0, 10))

    def loss_fn(params, example):
        x, label = example
        return -jax.nn.log_softmax(network(params, x))[label]

    def gram(params, data):
        return per_example.linearize(loss_fn, params, data)[1].gram()

    def update(params, data):
        _, jac = per_example.linearize(loss_fn, params, data)
        gram = jac.gram()
        return jac.combine(gram[0] / jnp.max(jnp.diagonal(gram)))

    return Setting(
        f"{name}, {num_examples} examples",
        lambda params, data: jax.vmap(loss_fn, (None, 0))(params, data),
        (params, data),
        {"Gram matrix": Program(gram, reach[0], True), "and an update": Program(update, reach[1], False)},
        peer and peer(params, data),
    )


def engine(params, data):
    """Return a call of TorchJD's Engine on the same MLP, None where it is not installed."""
    try:
        import torch
        from torchjd.autogram import Engine
    except ImportError:
        return None
    layers = []
    for kernel, bias in params:
        layers += [torch.nn.Linear(*kernel.shape), torch.nn.ReLU()]
        layers[-2].weight.data = torch.tensor(np.asarray(kernel).T.copy())
        layers[-2].bias.data = torch.tensor(np.asarray(bias))
    model = torch.nn.Sequential(*layers[:-1])
    gramian = Engine(model, batch_dim=0)
    x, labels = torch.tensor(np.asarray(data[0])), torch.tensor(np.asarray(data[1])).long()
    losses = torch.nn.CrossEntropyLoss(reduction="none")
    return lambda: gramian.compute_gramian(losses(model(x), labels)).numpy()


def of_tasks(width, batch, num_tasks, reach):
    """Return the setting of heads on a trunk, one batch for all."""
    key = keys(6)
    trunk = [normal(next(key), width, width) * 2**0.5 for _ in range(3)]
    params = {"trunk": trunk, "heads": normal(next(key), width, num_tasks)}
    data = normal(next(key), batch, width, fan_in=1), normal(next(key), batch, num_tasks, fan_in=1)

    def losses_fn(params, data):
        x, y = data
        for kernel in params["trunk"]:
            x = jax.nn.relu(x @ kernel)
        return jnp.mean((x @ params["heads"] - y) ** 2, axis=0)

    def gram(params, data):
        return structured.linearize(losses_fn, params, data)[1].gram()

    def mgda(chunk_size):
        def run(params, data):
            _, jac = structured.linearize(losses_fn, params, data, chunk_size=chunk_size)
            return jac.combine(mtl.weightings.mgda(jac.scaled_gram()[0]))

        return run

    programs = {"Gram matrix": Program(gram, None, True), "mgda": Program(mgda(None), reach, False)}
    programs["mgda, 4 tasks at a time"] = Program(mgda(4), reach, False)
    return Setting(f"{num_tasks} tasks, trunk 3 × {width}, batch {batch}", losses_fn, (params, data), programs)


def examples(quick):
    sizes = (8,) if quick else (32, 128, 256)
    width = 16 if quick else 512
    for size in sizes:
        yield of_examples("MLP", dense, mlp_params(width), (64,), size, (2.0, 4.0), engine)
    size, width = (4, 8) if quick else (64, 32)
    yield of_examples("CNN", convolutional, cnn_params(width), (16 * 16 * 3,), size, (2.0, 4.0))
    yield of_examples("transformer", transformer, transformer_params(4 * width), (32, 4 * width), size, (2.0, 4.0))
    yield of_examples("GRU", gated, gru_params(4 * width), (16, 64), size, (2.0, 4.0))


def tasks(quick):
    for num_tasks, reach in ((4, None),) if quick else ((8, 5.0), (16, 9.0), (40, 21.0)):
        yield of_tasks(32 if quick else 1024, 8 if quick else 256, num_tasks, reach)


STUDIES = {"examples": examples, "tasks": tasks}


def measure(setting, rounds, budget):
    """Return one row for every program of a setting."""
    total = lambda params, data: jnp.sum(setting.losses(params, data))
    functions = {"plain step": jax.value_and_grad(total)} | {name: p.run for name, p in setting.programs.items()}
    programs = {name: jax.jit(function).lower(*setting.args).compile() for name, function in functions.items()}
    calls = {name: waiting(program, *setting.args) for name, program in programs.items()}
    if setting.peer is not None:
        calls["TorchJD's Engine"] = setting.peer
    seconds = medians(calls, rounds, budget)
    wanted = exact_gram(setting)
    rows = []
    for name, value in seconds.items():
        row = {"setting": setting.name, "what": name, "ms": value * 1e3, "passes": value / seconds["plain step"]}
        if name in programs:
            row["MB"] = programs[name].memory_analysis().temp_size_in_bytes / 2**20
        if name in setting.programs:
            row["reach"] = setting.programs[name].reach
        if wanted is not None and (name == "TorchJD's Engine" or name in programs and name == "Gram matrix"):
            row["error"] = relative_error(np.asarray(calls[name]()), wanted)
        rows.append(row)
    return rows


def exact_gram(setting, limit=2**28):
    """Return the products of the gradients in float64, None where the gradients take too much memory."""
    rows = jax.eval_shape(jax.jacrev(setting.losses), *setting.args)
    if sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(rows)) > limit:
        return None
    leaves = jax.tree.leaves(jax.jit(jax.jacrev(setting.losses))(*setting.args))
    flat = [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in leaves]
    return sum(leaf @ leaf.T for leaf in flat)


def relative_error(gram, wanted):
    lengths = np.sqrt(np.diagonal(wanted))
    return float(np.max(np.abs(gram - wanted) / np.outer(lengths, lengths)))


COLUMNS = {"ms": "{:.2f}", "passes": "{:.2f}", "reach": "{:.0f}", "MB": "{:.1f}", "error": "{:.0e}"}


def table(rows):
    """Return the rows as aligned text."""

    def cells(row):
        numbers = ["" if row.get(name) is None else form.format(row[name]) for name, form in COLUMNS.items()]
        return [row["setting"], row["what"], *numbers]

    texts = [["", "", *COLUMNS], *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [[*map(str.ljust, text[:2], widths[:2]), *map(str.rjust, text[2:], widths[2:])] for text in texts]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy sizes, one round")
    parser.add_argument("--only", choices=STUDIES, help="one study")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    rounds, budget = (1, 0) if options.quick else (7, 0.02)
    chosen = [options.only] if options.only else list(STUDIES)
    rows = [
        row for name in chosen for setting in STUDIES[name](options.quick) for row in measure(setting, rounds, budget)
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    stored = {"machine": machine(), "rows": rows}
    (options.out / "costs.json").write_text(json.dumps(stored, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
