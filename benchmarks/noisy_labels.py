"""Claim: a small clean set as the auxiliary task keeps a network from learning wrong labels.

A header with figures follows the run.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mtlgrad_jax as mtl
from benchmarks import digits

NOISES = (0.0, 0.2, 0.4, 0.6)
PER_CLASS = (5, 10, 20)
LEARNING_RATE = 1e-3
NUM_NOISY, NUM_TEST, BATCH_SIZE, CLEAN_BATCH_SIZE = 1000, 500, 32, 50
RESULTS = Path(__file__).parent / "results"

METHODS = ("noisy only", "clean only", "sum", "primary_aux", "masking")


def direction(method):
    """Return the Optax transformation of the stacked gradients and which row the clean one is."""
    return {
        "noisy only": lambda: mtl.aggregate(lambda gram: jnp.asarray([1.0, 0.0], gram.dtype)),
        "clean only": lambda: mtl.aggregate(lambda gram: jnp.asarray([0.0, 1.0], gram.dtype)),
        "sum": lambda: mtl.aggregate(lambda gram: jnp.ones_like(gram[0])),
        "primary_aux": mtl.primary_aux,
        "masking": mtl.guided_masking,
    }[method]()


def stacked_gradients(method, params, noisy, clean):
    """Return the rows that the method expects: (noisy, clean), or the clean one and one row per noisy example."""
    grad = jax.grad(digits.cross_entropy)
    clean_grad = grad(params, *clean)
    if method != "masking":
        return jax.tree.map(lambda *rows: jnp.stack(rows), grad(params, *noisy), clean_grad)
    per_example = jax.vmap(grad, (None, 0, 0))(params, *noisy)
    return jax.tree.map(lambda row, rows: jnp.concatenate([row[None], rows]), clean_grad, per_example)


def train(key, noise, *, method, per_class, num_steps, num_records):
    """Train one network; return over time its test accuracy and the share of wrong labels that it repeats."""
    inputs, labels = digits.load()
    order_key, noise_key, init_key, batch_key = jax.random.split(key, 4)
    order = digits.balanced_order(order_key, labels)
    clean, test = order[: digits.NUM_CLASSES * per_class], order[-NUM_TEST:]
    noisy = order[-NUM_TEST - NUM_NOISY : -NUM_TEST]
    noisy_labels = digits.corrupt(noise_key, labels[noisy], noise)
    wrong = noisy_labels != labels[noisy]
    params = digits.init(init_key, width=64)
    tx = optax.chain(direction(method), optax.adam(LEARNING_RATE))

    def step(carry, step_key):
        params, state = carry
        noisy_key, clean_key = jax.random.split(step_key)
        batch = jax.random.choice(noisy_key, NUM_NOISY, (BATCH_SIZE,), replace=False)
        trusted = jax.random.choice(clean_key, clean, (CLEAN_BATCH_SIZE,), replace=False)
        rows = stacked_gradients(
            method, params, (inputs[noisy[batch]], noisy_labels[batch]), (inputs[trusted], labels[trusted])
        )
        updates, state = tx.update(rows, state, params)
        return (optax.apply_updates(params, updates), state), None

    def run(carry, run_key):
        return jax.lax.scan(step, carry, jax.random.split(run_key, num_steps // num_records))[0]

    def measure(carry):
        params, _ = carry
        repeated = jnp.argmax(digits.logits(params, inputs[noisy]), axis=-1) == noisy_labels
        return {
            "accuracy": digits.accuracy(params, inputs[test], labels[test]),
            "memorised": jnp.sum(repeated & wrong) / jnp.maximum(jnp.sum(wrong), 1),
        }

    _, history = digits.record(run, (params, tx.init(params)), jax.random.split(batch_key, num_records), measure)
    return history


def study(*, num_seeds, num_steps, num_records, noises=NOISES, per_class=PER_CLASS):
    """Return a list of rows, one per method and setting; what does not depend on a setting runs once."""
    keys = jax.random.split(jax.random.key(0), num_seeds)
    rows = []
    for method in METHODS:
        for count in per_class:
            if method == "noisy only" and count != per_class[0]:
                continue
            options = {"method": method, "per_class": count, "num_steps": num_steps, "num_records": num_records}
            trainer = jax.jit(jax.vmap(partial(train, **options), in_axes=(0, None)))
            for noise in noises[:1] if method == "clean only" else noises:
                history = jax.tree.map(np.asarray, trainer(keys, noise))
                setting = {
                    "method": method,
                    "per_class": None if method == "noisy only" else count,
                    "noise": None if method == "clean only" else noise,
                }
                rows.append(setting | {quantity: summarize(values) for quantity, values in history.items()})
    return rows


def summarize(values):
    """Keep the mean curve, and the final value and the peak of every seed."""
    values = values.astype(float)
    final, peak = values[:, -1].round(4).tolist(), values.max(1).round(4).tolist()
    return {"curve": values.mean(0).round(4).tolist(), "final": final, "peak": peak}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, a few steps, one setting")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sizes = {"num_seeds": 10, "num_steps": 2000, "num_records": 20}
    if options.quick:
        sizes = {"num_seeds": 2, "num_steps": 40, "num_records": 2, "noises": (0.4,), "per_class": (10,)}
    rows = study(**sizes)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "noisy_labels.json").write_text(json.dumps({"sizes": sizes, "rows": rows}))


if __name__ == "__main__":
    main()
