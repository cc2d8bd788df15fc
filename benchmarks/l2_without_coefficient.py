"""Claim: half the squared norm as an auxiliary task regularises without a coefficient to tune.

A header with figures follows the run.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax

import mtlgrad_jax as mtl
from benchmarks import digits

DECAYS = (0.0, 1e-3, 1e-2, 1e-1, 0.3, 1.0, 3.0, 10.0, 30.0)
NOISES = (0.0, 0.3)
SCALES = (0.5, 1.0, 2.0)
COEFFICIENT_FREE = ("coupled", "decoupled", "decoupled per leaf")
LEARNING_RATE = 1e-3
NUM_TRAIN, NUM_TEST, BATCH_SIZE = 200, 1000, 50
RESULTS = Path(__file__).parent / "results"
COLORS = {"AdamW": "#000000", "coupled": "#E69F00", "decoupled": "#0072B2", "decoupled per leaf": "#009E73"}


def optimizer(name, decay=0.0):
    """Return Adam with one of the regularisers, on the weight matrices only."""
    if name == "AdamW":
        return optax.adamw(LEARNING_RATE, weight_decay=decay, mask=digits.are_weights)
    if name == "coupled":
        return optax.chain(optax.masked(mtl.relu_l2_project(), digits.are_weights), optax.adam(LEARNING_RATE))
    scope = "leaf" if name == "decoupled per leaf" else "tree"
    return mtl.adam_relu_l2(LEARNING_RATE, scope=scope, mask=digits.are_weights)


def train(key, noise, scale, decay, *, name, num_steps, num_records):
    """Train one network; return test accuracy, training loss and ‖θ‖ at `num_records` times."""
    inputs, labels = digits.load()
    order_key, noise_key, init_key, batch_key = jax.random.split(key, 4)
    order = digits.balanced_order(order_key, labels)
    train_set, test_set = order[:NUM_TRAIN], order[-NUM_TEST:]
    train_labels = digits.corrupt(noise_key, labels[train_set], noise)
    params = digits.init(init_key, scale=scale)
    tx = optimizer(name, decay)

    def step(carry, step_key):
        params, state = carry
        batch = jax.random.choice(step_key, NUM_TRAIN, (BATCH_SIZE,), replace=False)
        grads = jax.grad(digits.cross_entropy)(params, inputs[train_set][batch], train_labels[batch])
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    def run(carry, run_key):
        return jax.lax.scan(step, carry, jax.random.split(run_key, num_steps // num_records))[0]

    def measure(carry):
        params, _ = carry
        length = optax.tree.norm([layer["w"] for layer in params])
        return {
            "accuracy": digits.accuracy(params, inputs[test_set], labels[test_set]),
            "loss": digits.cross_entropy(params, inputs[train_set], train_labels),
            "norm": length,
        }

    _, history = digits.record(run, (params, tx.init(params)), jax.random.split(batch_key, num_records), measure)
    return history


def study(*, num_seeds, num_steps, num_records, decays=DECAYS, noises=NOISES, scales=SCALES):
    """Return a list of rows, one per optimiser and setting, with one history per seed."""
    keys = jax.random.split(jax.random.key(0), num_seeds)
    rows = []
    for name in ("AdamW", *COEFFICIENT_FREE):
        options = {"name": name, "num_steps": num_steps, "num_records": num_records}
        trainer = jax.jit(jax.vmap(partial(train, **options), in_axes=(0, None, None, None)))
        for noise in noises:
            for scale in scales:
                for decay in decays if name == "AdamW" else (0.0,):
                    history = jax.tree.map(np.asarray, trainer(keys, noise, scale, decay))
                    setting = {"optimizer": name, "noise": noise, "scale": scale, "decay": decay}
                    rows.append(setting | {quantity: summarize(values) for quantity, values in history.items()})
    return rows


def summarize(values):
    """Keep the mean curve, and the final value of every seed."""
    values = values.astype(float)
    return {"curve": values.mean(0).round(4).tolist(), "final": values[:, -1].round(4).tolist()}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, a few steps, two coefficients")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.quick:
        sizes = {
            "num_seeds": 2,
            "num_steps": 40,
            "num_records": 2,
            "decays": (0.0, 1.0),
            "noises": (0.3,),
            "scales": (1.0,),
        }
    else:
        sizes = {"num_seeds": 10, "num_steps": 4000, "num_records": 20}
    rows = study(**sizes)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "l2_without_coefficient.json").write_text(json.dumps({"sizes": sizes, "rows": rows}))


if __name__ == "__main__":
    main()
