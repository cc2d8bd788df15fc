"""Claim: an auxiliary task helps, or hurts less, once what opposes the primary's mean gradient is removed from its own.

    python -m benchmarks.auxiliary_tasks [--quick] [--out FOLDER]

Published as github.com/vivien000/auxiliary-learning: y = tanh(xB), 1000 examples of the primary task and 1000 of an
auxiliary one with other inputs, whose matrix is the same, has noise on it, or is another one. An MLP of four layers of
100 with a head for each task, Adam at 1e-3, batches of 100 that are the same in every epoch; after ten epochs without
a better validation error it stops, and the best network is tested on 10000 examples. Data from the published seed.
The auxiliary gradient has the same weight as the primary's ("multitask"), or loses first what opposes a running mean
of the primary's gradient, on the shared layers ("projection"; a mean of rate .01). 20 seeds of the initial weights.

Test error of the primary task, mean and standard deviation over seeds; "agrees" if the means are within .005, less
than any two cells of one auxiliary task are apart (jax 0.10.2, CPU):

    claim                  published  ours             verdict
    none      single task  0.4466     0.4452 ± 0.0043  agrees
    same      multitask    0.4258     0.4235 ± 0.0070  agrees
    same      projection   0.4153     0.4166 ± 0.0085  agrees
    noisy     multitask    0.4397     0.4372 ± 0.0054  agrees
    noisy     projection   0.4294     0.4283 ± 0.0078  agrees
    unrelated multitask    0.4915     0.4915 ± 0.0049  agrees
    unrelated projection   0.4737     0.4732 ± 0.0055  agrees

Outcome: all seven cells are reproduced, within .003. With the same task the auxiliary is more data, and the projection
adds a third to its gain; with an unrelated one sharing costs .046 and the projection gets .018 of that back. It
does not make a useless auxiliary harmless: the single task remains better by .028.

The projection is a weighting of three rows, g₀, g₁ and the mean, in `projection`. `mtl.bloop` is its relative that
removes the component along the mean whichever its sign, `mtl.aux_projection` the one without a mean.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import mtlgrad_jax as mtl
from benchmarks import verdicts

NUM_INPUTS, WIDTH, NUM_OUTPUTS, DEPTH = 250, 100, 100, 4
BATCH_SIZE, PATIENCE, LEARNING_RATE = 100, 10, 1e-3
STRENGTH, EMA = 1.0, 0.01
RESULTS = Path(__file__).parent / "results"

PUBLISHED = {
    ("none", "single task"): 0.4466,
    ("same", "multitask"): 0.4258,
    ("same", "projection"): 0.4153,
    ("noisy", "multitask"): 0.4397,
    ("noisy", "projection"): 0.4294,
    ("unrelated", "multitask"): 0.4915,
    ("unrelated", "projection"): 0.4737,
}
CELLS = tuple(PUBLISHED)
TOLERANCE = 0.005
STYLES = {"multitask": "#E69F00", "projection": "#0072B2"}


def data(num_train=1000, num_test=10_000):
    """Return inputs and targets of the primary set, of the three auxiliary sets, and to validate and test on.

    tanh(xB) with random inputs and a random matrix; the auxiliary tasks have other inputs and the same matrix, one
    with noise on it, or another one. Drawn as published, from one generator in this order.
    """
    rng = np.random.RandomState(0)
    inputs = [rng.rand(count, NUM_INPUTS) for count in (num_train, num_train, num_train, num_test)]
    matrix, other = 10 * rng.randn(NUM_INPUTS, NUM_OUTPUTS), 10 * rng.randn(NUM_INPUTS, NUM_OUTPUTS)
    noisy = matrix + 3.5 * rng.randn(NUM_INPUTS, NUM_OUTPUTS)
    pair = lambda x, b: (jnp.asarray(x, jnp.float32), jnp.asarray(np.tanh(x @ b), jnp.float32))
    primary, second, validation, test = inputs
    auxiliary = {"none": matrix, "same": matrix, "noisy": noisy, "unrelated": other}
    return {
        "primary": pair(primary, matrix),
        "auxiliary": {task: pair(second, b) for task, b in auxiliary.items()},
        "validation": pair(validation, matrix),
        "test": pair(test, matrix),
    }


def init(key):
    """Draw four hidden layers, and a head for each task, with Glorot's uniform weights."""
    draw = jax.nn.initializers.glorot_uniform()
    layer = lambda key, fan_in, fan_out: {"w": draw(key, (fan_in, fan_out)), "b": jnp.zeros(fan_out)}
    *trunk_keys, primary_key, auxiliary_key = jax.random.split(key, DEPTH + 2)
    return {
        "trunk": [layer(k, WIDTH if i else NUM_INPUTS, WIDTH) for i, k in enumerate(trunk_keys)],
        "primary": layer(primary_key, WIDTH, NUM_OUTPUTS),
        "auxiliary": layer(auxiliary_key, WIDTH, NUM_OUTPUTS),
    }


def error(params, head, examples):
    """Return the mean squared error of a task."""
    hidden, targets = examples
    for layer in params["trunk"]:
        hidden = jax.nn.relu(hidden @ layer["w"] + layer["b"])
    return jnp.mean((hidden @ params[head]["w"] + params[head]["b"] - targets) ** 2)


class ProjectionState(NamedTuple):
    """The running mean of the primary gradient."""

    average: dict  # leaves (*param_shape)
    started: jax.Array  # () bool


def projection(strength, ema):
    """Follow the primary gradient plus what of the auxiliary does not oppose the primary's running mean.

    u = g₀ + λ(g₁ − min(⟨g₁,m⟩, 0)/‖m‖² m),  m ← (1−ρ)m + ρg₀;  the weights of u on the rows g₀, g₁ and m
    """

    def weigh(gram):
        squared_length = gram[2, 2]
        opposed = jnp.minimum(gram[1, 2], 0) / jnp.where(squared_length > 0, squared_length, 1)
        return jnp.stack([jnp.ones_like(opposed), jnp.full_like(opposed, strength), -strength * opposed])

    combine = mtl.aggregate(weigh)

    def init(params):
        return ProjectionState(optax.tree.zeros_like(params), jnp.zeros((), bool))

    def update(task_grads, state, params=None):
        share = jnp.where(state.started, ema, 1.0)
        average = jax.tree.map(lambda m, rows: m + share * (rows[0] - m), state.average, task_grads)
        rows = jax.tree.map(lambda rows, m: jnp.concatenate([rows, m[None]]), task_grads, average)
        return combine.update(rows, combine.init(params), params)[0], ProjectionState(average, jnp.ones((), bool))

    return optax.GradientTransformation(init, update)


def optimizer(method):
    """Return Adam with the method on the shared layers; a head belongs to one task."""
    direction = {
        "single task": lambda: mtl.constant(weights=(1.0, 0.0)),
        "multitask": lambda: mtl.constant(weights=(1.0, STRENGTH)),
        "projection": lambda: projection(STRENGTH, EMA),
    }[method]()
    labels = {"trunk": "trunk", "primary": "head", "auxiliary": "head"}
    return optax.chain(
        optax.partition({"trunk": direction, "head": mtl.constant(weights=(1.0, STRENGTH))}, labels),
        optax.adam(LEARNING_RATE),
    )


def train(key, primary, auxiliary, validation, test, *, method, max_epochs):
    """Train until ten epochs have not improved the validation error; return the test error of the best epoch.

    The mini-batches are the same in every epoch, as in the published code.
    """
    params, tx = init(key), optimizer(method)
    batches = jax.tree.map(lambda x: x.reshape(-1, BATCH_SIZE, x.shape[-1]), (primary, auxiliary))
    losses = [
        partial(lambda head, params, batch: error(params, head, batch), head) for head in ("primary", "auxiliary")
    ]
    value_and_grad = mtl.separate_value_and_grad(losses)

    def step(carry, batch):
        params, state = carry
        updates, state = tx.update(value_and_grad(params, list(batch))[1], state, params)
        return (optax.apply_updates(params, updates), state), None

    def epoch(loop):
        carry, best, least, waited, count = loop
        carry, _ = jax.lax.scan(step, carry, batches)
        value = error(carry[0], "primary", validation)
        better = value < least
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), carry[0], best)
        return carry, best, jnp.minimum(value, least), jnp.where(better, 0, waited + 1), count + 1

    start = (params, tx.init(params)), params, jnp.array(jnp.inf), jnp.array(0), jnp.array(0)
    unfinished = lambda loop: (loop[3] < PATIENCE) & (loop[4] < max_epochs)
    _, best, _, _, count = jax.lax.while_loop(unfinished, epoch, start)
    return error(best, "primary", test), count


def study(*, num_seeds, max_epochs, cells=CELLS, save=lambda rows: None, **sizes):
    """Return one row per cell with the test errors and numbers of epochs of all seeds."""
    sets = data(**sizes)
    keys = jax.random.split(jax.random.key(0), num_seeds)
    rows = []
    for task, method in cells:
        start = time.perf_counter()
        examples = sets["primary"], sets["auxiliary"][task], sets["validation"], sets["test"]
        one = jax.jit(partial(train, method=method, max_epochs=max_epochs))
        errors, epochs = (
            np.asarray(values, float) for values in zip(*[one(key, *examples) for key in keys], strict=True)
        )
        rows.append({"task": task, "method": method, "error": errors.round(5).tolist(), "epochs": epochs.tolist()})
        save(rows)
        seconds = time.perf_counter() - start
        print(f"{task:10} {method:12} {errors.mean():.4f} {epochs.mean():5.0f} epochs {seconds:5.0f} s", flush=True)
    return rows


def errors_of(rows, task, method):
    """Return the test errors of a cell, none if it did not run."""
    return np.array([value for row in rows if (row["task"], row["method"]) == (task, method) for value in row["error"]])


def verdicts_of(rows):
    """Return what was published, what came out here and whether they agree."""
    lines = []
    for task, method in CELLS:
        errors = errors_of(rows, task, method)
        if errors.size:
            published = PUBLISHED[task, method]
            ours = f"{errors.mean():.4f} ± {errors.std(ddof=1):.4f}"
            agrees = abs(errors.mean() - published) <= TOLERANCE
            lines.append(verdicts.verdict(f"{task:9} {method}", f"{published:.4f}", ours, agrees))
    return lines


def table(rows):
    """Return the table of the header: one line per cell."""
    return verdicts.table(verdicts_of(rows))


def draw(rows):
    """Return a figure: the test errors of all cells, and the published means."""
    tasks = {"same": "the same task, other inputs", "noisy": "a similar task", "unrelated": "an unrelated task"}
    single = errors_of(rows, "none", "single task")
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), sharey=True)
    for (task, title), ax in zip(tasks.items(), axes, strict=True):
        if single.size:
            ax.axhline(single.mean(), color="#000000", ls="--", lw=1, label="single task")
        shown = [method for method in STYLES if errors_of(rows, task, method).size]
        for place, method in enumerate(shown):
            errors, color = errors_of(rows, task, method), STYLES[method]
            ax.plot(place + np.linspace(-0.18, 0.18, errors.size), errors, "o", ms=3, alpha=0.5, color=color)
            ax.plot([place - 0.3, place + 0.3], [errors.mean()] * 2, color=color, lw=3)
            label = "published" if place == 0 else None
            ax.plot(place, PUBLISHED[task, method], "D", ms=7, mfc="none", color="#000000", label=label)
        ax.set_xticks(range(len(shown)), shown, fontsize=9)
        ax.set_xlim(-0.6, len(shown) - 0.4)
        ax.set_title(f"auxiliary: {title}", fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("test error of the primary task")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    figure.tight_layout()
    return figure


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, two epochs, one cell")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sizes = {"num_seeds": 20, "max_epochs": 1000}
    if options.quick:
        sizes = {"num_seeds": 2, "max_epochs": 2, "num_train": 200, "num_test": 200}
        sizes["cells"] = (("same", "projection"),)
    options.out.mkdir(parents=True, exist_ok=True)

    def save(rows):
        stored = {"sizes": sizes, "rows": rows, "verdicts": verdicts_of(rows)}
        (options.out / "auxiliary_tasks.json").write_text(json.dumps(stored))

    rows = study(**sizes, save=save)
    draw(rows).savefig(options.out / "auxiliary_tasks.png", dpi=100)
    print(table(rows))


if __name__ == "__main__":
    main()
