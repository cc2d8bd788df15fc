"""Claim: what a method needs is all that is paid for, in units of one backward pass of the summed loss.

    pip install "torch==2.13.0" "torchjd[full]==0.18.0"
    python -m benchmarks.costs [--quick] [--only STUDY ...] [--out FOLDER]

One plain step is `jax.value_and_grad` of the summed losses, compiled. `passes` is the median time of a program divided
by that of the plain step beside it, called in turns; `reach` is what was aimed at, and every line is printed as met or
by how much it is missed. Error is the largest one of an inner product, relative to the lengths of the two gradients,
against the products of the gradients, taken one by one for examples, in float64 (only where these fit). MB are
temporaries, from the compiled program. TorchJD's Engine computes the same Gram matrix of the same network eagerly.

Losses only, weights every ten steps, tasks: T heads on a trunk of 3 × 1024, one batch of 256; every result that
`descent_direction` returns is kept. Examples: cross entropy of an MLP 64-512-512-512-10 with biases, of a CNN (three
convolutions), a two-layer transformer (32 tokens of 128), a GRU (16 steps of 64), and, for instance-wise risk
minimisation with UPGrad as in arXiv 2406.16232, of the network for CIFAR-10 in TorchJD's tests, "similar to what we
used" there (grouped convolutions), 32 examples. Table: one million rows of 32, two lookups for each of 256 examples, a
step of SGD with the table donated. Populations: seeds of a network of 64 × 64, T = 3, Adam; the fastest of 100 turns.
Compilation: seconds of processor time to trace, lower and compile a first update, T = 8.

Last figures, in passes (jax 0.10.2, two cores; other work was going on, behind this in priority):

    losses only                          famo        stch   geometric
    losses only, 2 tasks                 0.89        0.97        1.08
    losses only, 8 tasks                 0.83        0.93        1.00
    losses only, 40 tasks                0.85        0.94        0.96

    every step of ten                    mgda    every 10
    10 steps, 2 tasks                    2.00        1.06
    10 steps, 8 tasks                    4.75        1.43
    10 steps, 16 tasks                   8.31        1.83

                                      Gram matrix  and an update   UPGrad  its solver  TorchJD: Engine  UPGrad
    MLP, 32 examples                         0.70           1.42     1.93        0.39            41.47   44.78
    MLP, 128 examples                        0.95           1.28     5.12        3.79            47.81   91.60
    MLP, 256 examples                        1.03           1.42   134.40      129.54            96.09
    CNN, 64 examples                         1.86           2.50                                  4.05
    transformer, 64 examples                 1.29           2.07                                  1.95
    GRU, 64 examples                         1.50           1.93                                 16.59
    CIFAR-10 network, 32 examples            0.07           1.06     1.04        0.00             0.04    0.04

                                  Gram matrix        mgda  4 at a time
    8 tasks,                             4.52        5.66        4.42
    16 tasks                             8.67        9.04        7.21
    40 tasks                            16.92       17.31       14.58

    table                               ms a step
    plain step, dense gradient                72.2
    mgda, stacked                            295.9
    mgda, structured                         121.4
    mgda, touched rows as the leaf             1.9

    leaves          adam    mean    mgda
    100             0.66    0.32    1.74
    500             2.65    0.96    3.30
    2000           14.85    4.60    9.40

Outcome: line by line.
Losses only, weights every ten steps, Gram matrices of examples, rows of a table: met.
Tasks: mgda of 8 at once misses 5 by 13 % (other runs gave 4.2), 16 are at the edge of 9 (10.3 in another run), 40 met;
four at a time all are met. Temporaries are gradients at the outputs of layers, tasks × batch × width whatever P is:
for one more task an eighth of a gradient at batch 32, but a whole one, 12 MB, at batch 256 (a prototype needed 7.5).
They are kept for all tasks, so that chunks save time and no memory.
UPGrad over examples, 4 plain steps and the solver: met for 32 and 128. For 256 the direction is 134 plain steps and the
solver alone 130, called beside it: missed by 1 %, which is how far two calls of the solver differ; without it the
update is 1.4. The solver is the limit: 256 programs of 256 unknowns, 1.3 s (128: 29 ms). TorchJD's takes .3 s for 128
examples, and so much longer for 256 that its direction was not timed there.
Memory of examples is 1.2 to 1.3 times a plain step's and the activations together where networks are dense or
convolutions: gradients at the outputs of layers are kept beside what entered them. Transformer and GRU met.
Twenty times as fast as TorchJD's Engine: only where layers are wide (MLP, 50 to 93 times), GRU 11. The Engine takes 4
plain steps on the CNN and 2 on the transformer, so that nobody can be 20 times as fast. On grouped convolutions it is
twice as fast as us, and its whole direction 25 times: XLA's gradient of a grouped convolution with respect to its
kernel takes 2.6 s on a CPU. That is the plain step; the Gram matrix needs no such gradient, and takes a thirteenth.
Populations: mgda was within 1.15 times the sum's ratio in the last run and is at the edge of it (four runs, 4 seeds:
2.0, 1.8, 3.9, 2.7 of 3.2, 2.9, 2.8, 2.9; 16 seeds: 12.8, 13.2, 13.3, 9.1 of 12.5, 15.0, 15.9, 14.0). `mean` on the
same T gradients is no better (15 to 20 with 16), so that what is left is T gradients, whose arithmetic a single small
run hides behind the 100 µs of a call. Tried under `vmap`: the sum in place of the product, and products of matrices,
for combinations (no faster). The rescues from over- and underflow were run for every member and are a branch again:
Gram matrices of 16 members in .16 ms (before .40).
Compilation, 1.5 times Adam's: met with 500 leaves (1.2) and 2000 (.6), missed with 100 (2.6), where the solver's 1.4 s,
the same for any number of leaves, are twice Adam's .7 s. One huge leaf: no copy, met.
Not measured: a GPU. Agreement with `jax.jacrev` is asked in tests/jacobians; that of the transformer's losses under
`jit` is itself off by 2e-2 (of a row's length) on this CPU, where ours and TorchJD's agree with one example at a time.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import mtlgrad_jax as mtl
from benchmarks import small_networks as networks
from benchmarks.small_networks import keys, normal
from benchmarks.timing import machine, medians, tried, waiting
from mtlgrad_jax.jacobians import per_example, structured

RESULTS = Path(__file__).parent / "results"
RATE = 1e-3


class Program(NamedTuple):
    """Something to be timed beside a plain step."""

    run: Callable[..., Any]
    reach: float | Callable[[dict[str, float]], float] | None = None  # plain steps, maybe from those of the others
    gram: bool = False  # whether it returns the Gram matrix, whose error is measured


class Setting(NamedTuple):
    """A network, its data and what is computed of it."""

    name: str
    rows: Callable[..., Any] | None  # (params, data) -> J, leaves (R, *param_shape), to judge Gram matrices by
    args: tuple[Any, ...]
    plain: Callable[..., Any]  # what is the unit
    programs: dict[str, Program]
    peers: dict[str, Callable[[], Any]] = {}  # eager
    donated: tuple[int, ...] = ()  # arguments that a step replaces by its results
    forward: Callable[..., Any] | None = None  # whose values are the activations
    turns: tuple[Any, ...] = (7, 0.02)  # how often each program has its turn, for how many seconds, what of them counts


def trunk_and_heads(width, batch, num_tasks):
    """Return losses of T heads on a trunk of three layers, parameters and one batch for all."""
    key = keys(6)
    trunk = [normal(next(key), width, width) * 2**0.5 for _ in range(3)]
    params = {"trunk": trunk, "heads": normal(next(key), width, num_tasks)}
    data = normal(next(key), batch, width, fan_in=1), normal(next(key), batch, num_tasks, fan_in=1)

    def losses_fn(params, data):
        x, y = data
        for kernel in params["trunk"]:
            x = jax.nn.relu(x @ kernel)
        return jnp.mean((x @ params["heads"] - y) ** 2, axis=0)

    return losses_fn, params, data


def summed(losses):
    """Return the plain step: the summed losses and their gradient."""
    return jax.value_and_grad(lambda params, data: jnp.sum(losses(params, data)))


def descend(params, direction):
    return jax.tree.map(lambda p, u: p - RATE * u, params, direction)


def of_losses_only(width, batch, num_tasks):
    """Return the setting of methods that look at losses only, everything that is returned included."""
    losses_fn, params, data = trunk_and_heads(width, batch, num_tasks)
    methods = {"famo": mtl.weightings.famo(), "stch": mtl.weightings.stch, "geometric": mtl.weightings.geometric}
    run = lambda weighting: lambda params, data: mtl.descent_direction(losses_fn, params, weighting, data)
    programs = {name: Program(run(weighting), 1.1) for name, weighting in methods.items()}
    return Setting(f"losses only, {num_tasks} tasks", None, (params, data), summed(losses_fn), programs)


def of_every_k(width, batch, num_tasks, k=10):
    """Return the setting of k steps of SGD, their weights from each step or from the first."""
    losses_fn, params, data = trunk_and_heads(width, batch, num_tasks)

    def plain(params, data):
        step = lambda params, _: (descend(params, summed(losses_fn)(params, data)[1]), None)
        return lax.scan(step, params, length=k)[0]

    def steps(weighting, params, data):
        def step(carry, _):
            params, memory = carry
            _, u, info = mtl.descent_direction(losses_fn, params, weighting, data, method="structured", memory=memory)
            return (descend(params, u), info.memory), info.weights

        memory = weighting.init(num_tasks) if weighting is every else ()
        return lax.scan(step, (params, memory), length=k)

    every = mtl.weightings.every_k(mtl.weightings.mgda, k)
    programs = {
        "mgda": Program(partial(steps, mtl.weightings.mgda)),
        "mgda, weights every 10": Program(partial(steps, every), lambda passes: 1.25 * (passes["mgda"] + k - 1) / k),
    }
    return Setting(f"{k} steps, {num_tasks} tasks", None, (params, data), plain, programs)


def of_examples(name, network, params, shape, num_examples, whole=False):
    """Return the setting of a classifier with one row of J for every example."""
    key = keys(2)
    data = (jax.random.normal(next(key), (num_examples, *shape)), jax.random.randint(next(key), (num_examples,), 0, 10))

    def loss_fn(params, example):
        x, label = example
        return -jax.nn.log_softmax(network(params, x))[label]

    losses = jax.vmap(loss_fn, (None, 0))
    rows = jax.vmap(jax.grad(loss_fn), (None, 0))
    gram = lambda params, data: per_example.linearize(loss_fn, params, data)[1].gram()

    def update(params, data):
        _, jac = per_example.linearize(loss_fn, params, data)
        gram = jac.gram()
        return jac.combine(gram[0] / jnp.max(jnp.diagonal(gram)))

    programs = {"Gram matrix": Program(gram, 2.0, True), "and an update": Program(update, 4.0)}
    if whole:
        ready = jax.jit(gram)(params, data)
        programs["UPGrad's weights alone"] = Program(lambda *_: mtl.weightings.upgrad(lax.optimization_barrier(ready)))
        reach = lambda passes: 4 + passes["UPGrad's weights alone"]
        programs["UPGrad's direction"] = Program(
            lambda params, data: mtl.descent_direction(
                loss_fn, params, mtl.weightings.upgrad, data, method="per_example"
            ),
            reach,
        )
    peers = torch_peers(network, params, data, whole)
    turns = (3, 0.0) if whole and network is networks.grouped else (7, 0.02)
    name = f"{name}, {num_examples} examples"
    return Setting(name, rows, (params, data), summed(losses), programs, peers, forward=losses, turns=turns)


def torch_peers(network, params, data, whole):
    """Return what TorchJD's Engine does on the same network, nothing where it is not installed."""
    try:
        import torch
        from torchjd.aggregation import UPGradWeighting
        from torchjd.autogram import Engine
    except ImportError:
        return {}
    model = networks.in_torch(network, params)
    engine, weighting = Engine(model, batch_dim=0), UPGradWeighting()
    x, labels = torch.tensor(np.asarray(data[0])), torch.tensor(np.asarray(data[1])).long()
    loss_fn = torch.nn.CrossEntropyLoss(reduction="none")
    losses = lambda: loss_fn(model(x), labels)

    def direction():
        model.zero_grad()
        values = losses()
        values.backward(weighting(engine.compute_gramian(values)))

    peers = {"TorchJD's Engine": lambda: engine.compute_gramian(losses()).numpy()}
    whole = whole and len(labels) <= 128  # its solver takes half a minute for 256
    return peers | {"TorchJD's direction": direction} if whole else peers


def of_tasks(width, batch, num_tasks, reach):
    """Return the setting of tasks on one batch."""
    losses_fn, params, data = trunk_and_heads(width, batch, num_tasks)
    gram = lambda params, data: structured.linearize(losses_fn, params, data)[1].gram()

    def mgda(chunk_size, params, data):
        _, jac = structured.linearize(losses_fn, params, data, chunk_size=chunk_size)
        return jac.combine(mtl.weightings.mgda(jac.scaled_gram()[0]))

    programs = {"Gram matrix": Program(gram, None, True), "mgda": Program(partial(mgda, None), reach)}
    programs["mgda, 4 tasks at a time"] = Program(partial(mgda, 4), reach)
    name = f"{num_tasks} tasks, trunk 3 × {width}, batch {batch}"
    return Setting(name, jax.jacrev(losses_fn), (params, data), summed(losses_fn), programs)


def of_a_table(num_rows, width, batch, num_tasks=3):
    """Return the setting of a step of SGD on a table of which the batch looks up a few rows."""
    key = keys(5)
    head = normal(next(key), 2 * width, 64), normal(next(key), 64, num_tasks)
    params = {"table": 0.1 * normal(next(key), num_rows, width, fan_in=1), "head": head}
    numbers = jax.random.randint(next(key), (batch, 2), 0, num_rows)  # of a user and of a thing
    data = numbers, normal(next(key), batch, num_tasks, fan_in=1)

    def losses_fn(params, data):
        numbers, y = data
        x = params["table"][numbers].reshape(batch, -1)
        return jnp.mean((jax.nn.relu(x @ params["head"][0]) @ params["head"][1] - y) ** 2, axis=0)

    def plain(params, data):
        return descend(params, summed(losses_fn)(params, data)[1])

    def dense(method, params, data):
        return descend(params, mtl.descent_direction(losses_fn, params, mtl.weightings.mgda, data, method=method)[1])

    def touched(params, data):
        """The rows that the batch looks up, each once, are the leaf; the rest of the table is never read."""
        numbers, y = data
        distinct, places = jnp.unique(numbers, return_inverse=True, size=numbers.size, fill_value=num_rows)
        small = params | {"table": params["table"].at[distinct].get(mode="fill", fill_value=0)}
        small_data = places.reshape(numbers.shape), y
        u = mtl.descent_direction(losses_fn, small, mtl.weightings.mgda, small_data, method="structured")[1]
        table = params["table"].at[distinct].add(-RATE * u.pop("table"), mode="drop")
        return {"table": table, "head": descend(params["head"], u["head"])}

    programs = {f"mgda, {way}": Program(partial(dense, way)) for way in ("stacked", "structured")}
    programs["mgda, touched rows as the leaf"] = Program(touched, 0.1)
    name = f"table of {num_rows} × {width}, batch {batch}, {num_tasks} tasks"
    return Setting(name, None, (params, data), plain, programs, donated=(0,))


def of_a_population(num_members, num_tasks=3, width=64, batch=64):
    """Return the setting of steps of Adam for seeds of a small network, beside those of the summed loss."""
    key = keys(5)
    data = normal(next(key), batch, 32, fan_in=1), normal(next(key), batch, num_tasks, fan_in=1)
    shapes = ((32, width), (width, width), (width, num_tasks))
    params = [normal(next(key), num_members, m, n, fan_in=m) for m, n in shapes]

    def losses_fn(params, data):
        x, y = data
        for kernel in params[:-1]:
            x = jnp.tanh(x @ kernel)
        return jnp.mean((x @ params[-1] - y) ** 2, axis=0)

    def step(transform, params, data):
        tx = optax.chain(*transform, optax.adam(RATE))
        if transform:
            _, grads = mtl.task_value_and_grad(losses_fn)(params, data)
        else:
            _, grads = summed(losses_fn)(params, data)
        return optax.apply_updates(params, tx.update(grads, tx.init(params), params)[0])

    def population(transform, params, data):
        return jax.vmap(partial(step, transform), (0, None))(params, data)

    def alone(transform, params, data):
        return step(transform, [leaf[0] for leaf in params], data)

    programs = {}
    for name, transform in {"sum": (), "mean": (mtl.mean(),), "mgda": (mtl.mgda(),)}.items():
        programs[f"{name}, one seed"] = Program(partial(alone, transform))
        programs[f"{name}, all seeds"] = Program(partial(population, transform))
    name = f"{num_members} seeds"
    return Setting(name, None, (params, data), partial(alone, ()), programs, turns=(100, 0.005, min))


def losses_only(quick):
    for num_tasks in (3,) if quick else (2, 8, 40):
        yield of_losses_only(16 if quick else 1024, 8 if quick else 256, num_tasks)


def every_k(quick):
    for num_tasks in (3,) if quick else (2, 8, 16):
        yield of_every_k(16 if quick else 1024, 8 if quick else 256, num_tasks)


def examples(quick):
    width = 16 if quick else 512
    for size in (8,) if quick else (32, 128, 256):
        yield of_examples("MLP", networks.dense, networks.dense_params(width), (64,), size, whole=True)
    size, width = (4, 8) if quick else (64, 32)
    for name, network, params, shape in (
        ("CNN", networks.convolutional, networks.convolutional_params(width), (16 * 16 * 3,)),
        ("transformer", networks.transformer, networks.transformer_params(4 * width), (32, 4 * width)),
        ("GRU", networks.gated, networks.gated_params(4 * width), (16, 64)),
    ):
        yield of_examples(name, network, params, shape, size)
    size = 4 if quick else 32
    yield of_examples("CIFAR-10 network", networks.grouped, networks.grouped_params(), (32 * 32 * 3,), size, whole=True)


def tasks(quick):
    for num_tasks, reach in ((4, None),) if quick else ((8, 5.0), (16, 9.0), (40, 21.0)):
        yield of_tasks(32 if quick else 1024, 8 if quick else 256, num_tasks, reach)


def table_rows(quick):
    yield of_a_table(1000 if quick else 1_000_000, 8 if quick else 32, 16 if quick else 256)


def populations(quick):
    for num_members in (2,) if quick else (4, 16):
        yield of_a_population(num_members)


STUDIES = {
    "losses": losses_only,
    "every_k": every_k,
    "examples": examples,
    "tasks": tasks,
    "table": table_rows,
    "populations": populations,
}


def measure(setting, quick):
    """Return one row for every program of a setting."""
    functions = {"plain step": setting.plain} | {name: p.run for name, p in setting.programs.items()}
    compiled = {
        name: jax.jit(function, donate_argnums=setting.donated).lower(*setting.args).compile()
        for name, function in functions.items()
    }
    calls = {name: call_of(setting, program) for name, program in compiled.items()} | setting.peers
    seconds = medians(calls, *((1, 0) if quick else setting.turns))
    passes = {name: value / seconds["plain step"] for name, value in seconds.items()}
    wanted = exact_gram(setting)
    rows = []
    for name, value in seconds.items():
        row = {"setting": setting.name, "what": name, "ms": value * 1e3, "passes": passes[name]}
        if name in compiled:
            row["MB"] = compiled[name].memory_analysis().temp_size_in_bytes / 2**20
        if name == "Gram matrix" and setting.forward is not None:
            row["plain and activations MB"] = rows[0]["MB"] + megabytes_of_values(setting.forward, setting.args)
        if name in setting.programs:
            reach = setting.programs[name].reach
            row["reach"] = reach(passes) if callable(reach) else reach
        if wanted is not None and (name == "TorchJD's Engine" or name in compiled and name == "Gram matrix"):
            row["error"] = relative_error(np.asarray(calls[name]()), wanted)
        rows.append(row)
    return rows


def megabytes_of_values(function, args):
    """Return what all intermediate values of a function take, those of every step of a loop included."""

    def size(jaxpr):
        total = 0
        for equation in jaxpr.eqns:
            inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
            if inner is None:
                total += sum(var.aval.size * var.aval.dtype.itemsize for var in equation.outvars)
            else:
                total += size(getattr(inner, "jaxpr", inner)) * equation.params.get("length", 1)
        return total

    return size(jax.make_jaxpr(function)(*args).jaxpr) / 2**20


def call_of(setting, program):
    """Return a call that waits; what is donated is replaced by the result, as a training loop does."""
    if not setting.donated:
        return waiting(program, *setting.args)
    held = [jax.tree.map(jnp.copy, setting.args[0])]

    def call():
        held[0] = jax.block_until_ready(program(held[0], *setting.args[1:]))

    return call


def exact_gram(setting, limit=2**28):
    """Return the products of the gradients in float64, None where the gradients take too much memory."""
    if setting.rows is None:
        return None
    rows = jax.eval_shape(setting.rows, *setting.args)
    if sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(rows)) > limit:
        return None
    leaves = jax.tree.leaves(jax.jit(setting.rows)(*setting.args))
    flat = [np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in leaves]
    return sum(leaf @ leaf.T for leaf in flat)


def relative_error(gram, wanted):
    lengths = np.sqrt(np.diagonal(wanted))
    return float(np.max(np.abs(gram - wanted) / np.outer(lengths, lengths)))


def compilation(num_leaves, num_tasks=8):
    """Return seconds of processor time to trace, lower and compile a first update of many small leaves."""
    shapes = [(10, 10 + index % 7) for index in range(num_leaves)]
    params, stacks = [jnp.ones(shape) for shape in shapes], [jnp.ones((num_tasks, *shape)) for shape in shapes]

    def seconds(transform, grads):
        state, start = transform.init(params), time.process_time()
        jax.jit(transform.update).lower(grads, state).compile()
        return time.process_time() - start

    row = {"leaves": num_leaves, "adam": seconds(optax.adam(RATE), params)}
    row |= {name: seconds(getattr(mtl, name)(num_tasks=num_tasks), stacks) for name in ("mean", "mgda")}
    jax.clear_caches()
    return row


def growth_per_task(width, batch):
    """Return by how much the temporaries of the Gram matrix grow with every task, in gradients, compiled only."""

    def used(num_tasks):
        (losses_fn, params, data) = trunk_and_heads(width, batch, num_tasks)
        gram = jax.jit(lambda params, data: structured.linearize(losses_fn, params, data)[1].gram())
        return gram.lower(params, data).compile().memory_analysis().temp_size_in_bytes

    return (used(40) - used(8)) / 32 / (3 * 4 * width**2)


def huge_leaf(num_entries, num_tasks=4):
    """Return the temporaries of an update of one leaf, from the compiled program; nothing is run."""
    transform = mtl.mgda(num_tasks=num_tasks)
    state = transform.init(jnp.zeros(1))
    stack = jax.ShapeDtypeStruct((num_tasks, num_entries), jnp.float32)
    used = jax.jit(transform.update).lower(stack, state).compile().memory_analysis()
    gigabyte = 2**30
    return {
        "shape": [num_tasks, num_entries],
        "J GB": 4 * num_tasks * num_entries / gigabyte,
        "temporaries GB": used.temp_size_in_bytes / gigabyte,
    }


COLUMNS = {"ms": "{:.2f}", "passes": "{:.2f}", "reach": "{:.2f}", "MB": "{:.1f}", "error": "{:.0e}"}


def table(rows):
    """Return the rows as aligned text."""

    def cells(row):
        numbers = ["" if row.get(name) is None else form.format(row[name]) for name, form in COLUMNS.items()]
        return [row["setting"], row["what"], *numbers]

    texts = [["", "", *COLUMNS], *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [[*map(str.ljust, text[:2], widths[:2]), *map(str.rjust, text[2:], widths[2:])] for text in texts]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def verdict(what, value, reach, more_is_better=False):
    """Say whether a line was reached, or by how much it was missed."""
    over = reach / value if more_is_better else value / reach
    outcome = "met" if over <= 1 else f"missed by {over - 1:.0%}" if over < 2 else f"missed by {over:.1f} times"
    return {"line": what, "value": round(value, 3), "reach": round(reach, 3), "outcome": outcome}


def verdicts(rows, compiled, leaf, growth):
    """Return one verdict for every line."""
    at = {(row["setting"], row["what"]): row for row in rows}
    found = [
        verdict(f"{row['setting']}: {row['what']}, plain steps", row["passes"], row["reach"])
        for row in rows
        if row.get("reach") is not None
    ]
    for (setting, what), row in at.items():
        if what == "TorchJD's Engine":
            times = row["ms"] / at[setting, "Gram matrix"]["ms"]
            found.append(verdict(f"{setting}: Gram matrix, times as fast as TorchJD's Engine", times, 20, True))
        if "plain and activations MB" in row:
            line = f"{setting}: Gram matrix, MB of temporaries (reach: those of a plain step, and activations)"
            found.append(verdict(line, row["MB"], row["plain and activations MB"]))
        if what == "mgda, all seeds":
            ratio = {
                name: at[setting, f"{name}, all seeds"]["ms"] / at[setting, f"{name}, one seed"]["ms"]
                for name in ("sum", "mean", "mgda")
            }
            line = f"{setting} by vmap: mgda in single runs, 1.15 of the sum's (the mean's: {ratio['mean']:.1f})"
            found.append(verdict(line, ratio["mgda"], 1.15 * ratio["sum"]))
    if growth is not None:
        found.append(verdict("temporaries for one more task, batch 32, in gradients", growth, 0.2))
    found += [
        verdict(f"{row['leaves']} leaves: mgda to compile, of Adam's", row["mgda"] / row["adam"], 1.5)
        for row in compiled
    ]
    found += (
        [verdict("one leaf (4, 1e8): temporaries, of J", leaf["temporaries GB"] / leaf["J GB"], 0.01)] if leaf else []
    )
    return found


def merged(path, new):
    """Return new results, and from a file those of studies that were not run."""
    if path is None or not path.exists():
        return new
    old = json.loads(path.read_text())
    rows = {(row["setting"], row["what"]): row for row in [*old["rows"], *new["rows"]]}
    return {name: value or old.get(name) for name, value in new.items()} | {"rows": list(rows.values())}


ELSEWHERE = """\
solver latency: benchmarks/solver_vs_peers.py; whole updates on ready stacks: benchmarks/aggregation_vs_torchjd.py
agreement with jax.jacrev: tests/jacobians; counts: tests/test_only_what_is_needed.py, tests/test_costs.py
GPU: not measured (benchmarks/gpu.py)"""


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="toy sizes, one round")
    parser.add_argument(
        "--only", nargs="+", choices=[*STUDIES, "compile"], help="some studies; others keep what is stored"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_compilation_cache", False)
    chosen = options.only or [*STUDIES, "compile"]
    rows = []
    for name in STUDIES:
        for setting in STUDIES[name](options.quick) if name in chosen else ():
            rows += measure(setting, options.quick)
            print(setting.name, flush=True)
    compiled, leaf, growth = [], None, None
    if "compile" in chosen:
        compilation(3)  # what a process compiles once
        growth = growth_per_task(*((32, 4) if options.quick else (1024, 32)))
        compiled = [compilation(count) for count in ((3,) if options.quick else (100, 500, 2000))]
        leaf = huge_leaf(10**5 if options.quick else 10**8)
    new = {"rows": rows, "compilation": compiled, "huge leaf": leaf, "growth per task": growth}
    stored = {"machine": machine()} | merged(options.out / "costs.json" if options.only else None, new)
    stored["reach"] = verdicts(*(stored[name] for name in new))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "costs.json").write_text(json.dumps(stored, indent=1) + "\n")
    print(table(rows))
    for row in compiled:
        print(
            f"{row['leaves']:5d} leaves, s to compile: "
            + ", ".join(f"{k} {row[k]:.2f}" for k in ("adam", "mean", "mgda"))
        )
    print(f"one leaf: {leaf}")
    print(
        "\n".join(f"{row['line']}: {row['value']} (reach {row['reach']}), {row['outcome']}" for row in stored["reach"])
    )
    print(ELSEWHERE)
    print(tried(__doc__))


if __name__ == "__main__":
    main()
