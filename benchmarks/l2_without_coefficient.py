"""Claim: half the squared norm as an auxiliary task (`relu_l2_project`) regularises without a coefficient to tune.

    python -m benchmarks.l2_without_coefficient [--quick] [--out FOLDER]

Data: scikit-learn's digits, 200 images to train on, 1000 to test; once with correct labels, once with 30 % of the
training labels wrong. Network: MLP 64-128-10, 4000 steps of Adam at 1e-3 with batches of 50, 10 seeds; weight matrices
are regularised, biases are not. AdamW with nine decay coefficients between 0 and 30 against the three variants
without one. The initial weights are He's times 0.5, 1 or 2.

Test accuracy in per cent at the end, mean over seeds, with the standard deviation for the variants without coefficient
(AdamW's are alike; jax 0.10.2, CPU). "Best" is the best of the nine coefficients on the test set itself, a choice that
no user has.

    wrong  init   Adam  AdamW .01  AdamW best (at)     coupled   decoupled    per leaf
       0%  ×0.5   93.3       93.3       93.4 (0.3)   91.8 ± 1.1  91.7 ± 1.1  89.4 ± 1.4
       0%  ×1     93.5       93.5       93.6 (0.1)   93.6 ± 1.0  93.5 ± 0.8  93.3 ± 1.0
       0%  ×2     93.3       93.5       93.5 (0.01)  93.8 ± 1.2  93.5 ± 1.0  93.4 ± 1.2
      30%  ×0.5   66.3       66.4       84.3 (3.0)   84.6 ± 2.1  84.4 ± 2.3  83.7 ± 2.9
      30%  ×1     68.5       68.9       84.5 (3.0)   76.4 ± 3.4  76.7 ± 3.6  80.7 ± 2.8
      30%  ×2     68.5       68.7       84.4 (3.0)   70.4 ± 4.7  70.6 ± 4.4  73.8 ± 3.4

Outcome: without any tuning it is at least as good as Adam and AdamW's default where there is something to regularise,
and with correct labels at the usual initialisation it costs nothing (within .2 points). But the coefficient has not
vanished, it has moved: the constraint keeps the norm at or below where it started, so the scale of the initial
weights now sets the strength. Started at half of He's scale it matches the best coefficient under wrong labels and
costs 2-4 points with correct ones; at twice the scale it does little.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import mtlgrad_jax as mtl
from benchmarks import digits

DECAYS = (0.0, 1e-3, 1e-2, 1e-1, 0.3, 1.0, 3.0, 10.0, 30.0)
NOISES = (0.0, 0.3)
SCALES = (0.5, 1.0, 2.0)
COEFFICIENT_FREE = ("coupled", "decoupled", "decoupled per leaf")
NAMES = ("AdamW", *COEFFICIENT_FREE)
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


def study(*, num_seeds, num_steps, num_records, decays=DECAYS, noises=NOISES, scales=SCALES, names=NAMES):
    """Return a list of rows, one per optimiser and setting, with one history per seed."""
    keys = jax.random.split(jax.random.key(0), num_seeds)
    rows = []
    for name in names:
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


def mean(row):
    """Return the mean final test accuracy of a row, in per cent."""
    return 100 * np.mean(row["accuracy"]["final"])


def spread(row):
    """Return the standard deviation over seeds, in per cent points."""
    return 100 * np.std(row["accuracy"]["final"], ddof=1)


def table(rows):
    """Return the table of the header: one line per setting."""
    lines = ["wrong  init   Adam  AdamW .01  AdamW best (at)     coupled   decoupled    per leaf"]
    for noise, scale in sorted({(row["noise"], row["scale"]) for row in rows}):
        here = [row for row in rows if (row["noise"], row["scale"]) == (noise, scale)]
        decayed = {row["decay"]: mean(row) for row in here if row["optimizer"] == "AdamW"}
        best = max(decayed, key=decayed.get)
        adamw = f"{decayed[0.0]:5.1f} {decayed.get(0.01, np.nan):10.1f} {decayed[best]:10.1f} {f'({best})':6}"
        free = {row["optimizer"]: f"{mean(row):.1f} ± {spread(row):.1f}" for row in here if row["optimizer"] != "AdamW"}
        lines.append(
            f"{noise:5.0%}  ×{scale:<3g}  {adamw}  " + "  ".join(free.get(name, "") for name in COEFFICIENT_FREE)
        )
    return "\n".join(lines)


def draw(rows):
    """Return a figure: test accuracy against the coefficient, one panel per setting."""
    noises, scales = (sorted({row[key] for row in rows}) for key in ("noise", "scale"))
    figure, axes = plt.subplots(
        len(noises), len(scales), figsize=(4 * len(scales), 3 * len(noises)), squeeze=False, sharex=True, sharey="row"
    )
    for (noise, scale), ax in zip(((noise, scale) for noise in noises for scale in scales), axes.flat, strict=True):
        here = [row for row in rows if (row["noise"], row["scale"]) == (noise, scale)]
        decayed = sorted((row for row in here if row["optimizer"] == "AdamW"), key=lambda row: row["decay"])
        smallest = min(row["decay"] for row in decayed if row["decay"] > 0) / 10
        decays = [max(row["decay"], smallest) for row in decayed]
        means, spreads = np.array([mean(row) for row in decayed]), np.array([spread(row) for row in decayed])
        ax.plot(decays, means, "o-", ms=4, color=COLORS["AdamW"], label="AdamW (leftmost: Adam)")
        ax.fill_between(decays, means - spreads, means + spreads, color=COLORS["AdamW"], alpha=0.12, lw=0)
        for row in here:
            if row["optimizer"] != "AdamW":
                ax.axhline(mean(row), color=COLORS[row["optimizer"]], lw=2, label=row["optimizer"])
        ax.set_xscale("log")
        ax.set_ylim(max(means.max() - 28, 0), means.max() + 5)
        ax.set_title(f"{noise:.0%} wrong labels, initial weights × {scale:g}", fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("AdamW's decay coefficient")
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy (%)")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.tight_layout()
    return figure


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, a few steps, one setting")
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
            "names": ("AdamW", "decoupled per leaf"),
        }
    else:
        sizes = {"num_seeds": 10, "num_steps": 4000, "num_records": 20}
    rows = study(**sizes)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "l2_without_coefficient.json").write_text(json.dumps({"sizes": sizes, "rows": rows}))
    draw(rows).savefig(options.out / "l2_without_coefficient.png", dpi=100)
    print(table(rows))


if __name__ == "__main__":
    main()
