"""Claim: a small clean set as the auxiliary task helps against wrong labels, and needs no weight to tune.

    python -m benchmarks.noisy_labels [--quick] [--out FOLDER]

Data: scikit-learn's digits. 1000 images, of which 0-60 % get a wrong label at random; 5, 10 or 20 clean images per
class; 500 others to test. Network: MLP 64-64-10, 2000 steps of Adam at 1e-3 with 32 noisy and 50 clean images per step,
10 seeds. Methods: the noisy set alone, the clean set alone, the sum of both losses, `mtl.primary_aux()` with the noisy
loss as the primary, and `mtl.guided_masking()`, which drops noisy examples whose gradient opposes the clean one.

Test accuracy in per cent at the end, mean and standard deviation over seeds (jax 0.10.2, CPU):

    clean  wrong   noisy only   clean only          sum  primary_aux      masking
        5     0%   97.5 ± 0.6   84.8 ± 2.1   97.1 ± 0.8   97.3 ± 0.9   95.6 ± 1.1
        5    20%   94.2 ± 0.7   84.8 ± 2.1   93.8 ± 0.9   94.8 ± 0.7   94.5 ± 1.6
        5    40%   90.4 ± 1.5   84.8 ± 2.1   89.6 ± 1.9   91.6 ± 1.3   93.7 ± 1.4
        5    60%   77.6 ± 3.2   84.8 ± 2.1   81.5 ± 2.5   81.8 ± 3.0   90.9 ± 1.7
       10     0%   97.5 ± 0.6   90.5 ± 2.0   97.4 ± 0.9   97.4 ± 0.7   96.9 ± 0.6
       10    20%   94.2 ± 0.7   90.5 ± 2.0   94.8 ± 0.8   94.9 ± 0.9   95.3 ± 0.8
       10    40%   90.4 ± 1.5   90.5 ± 2.0   92.2 ± 1.4   92.0 ± 1.2   93.5 ± 1.1
       10    60%   77.6 ± 3.2   90.5 ± 2.0   87.0 ± 2.2   82.5 ± 2.6   89.1 ± 1.8
       20     0%   97.5 ± 0.6   93.3 ± 1.4   97.4 ± 0.8   97.5 ± 0.7   97.0 ± 0.9
       20    20%   94.2 ± 0.7   93.3 ± 1.4   95.4 ± 0.7   95.0 ± 0.9   95.4 ± 1.0
       20    40%   90.4 ± 1.5   93.3 ± 1.4   93.7 ± 1.1   92.2 ± 1.4   93.8 ± 0.9
       20    60%   77.6 ± 3.2   93.3 ± 1.4   91.1 ± 1.3   83.0 ± 2.5   88.6 ± 1.6

Outcome: the constraint helps against wrong labels in every setting (.6 to 5.4 points over the noisy set alone) and
costs nothing without them. With 5 clean images per class it is better than the sum up to 40 % and level at 60 %; with
10 it is level up to 40 %, and elsewhere the sum is better: an auxiliary only objects, while the sum learns from the
clean images. At 60 % the clean set alone beats it: the constraint protects the loss on the clean images, which a
network can do while it learns wrong labels elsewhere. Masking looks at every example, at the price of one gradient
for each: it is the best or level with the best at 40 %, by far the best at 60 % with 5 clean images per class, and
costs .5 to 1.9 points without noise.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
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
STYLES = {
    "noisy only": {"color": "#000000", "ls": "--"},
    "clean only": {"color": "#000000", "ls": ":"},
    "sum": {"color": "#E69F00", "marker": "s"},
    "primary_aux": {"color": "#009E73", "marker": "o", "lw": 2.5},
    "masking": {"color": "#CC79A7", "marker": "^"},
}


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


def study(*, num_seeds, num_steps, num_records, noises=NOISES, per_class=PER_CLASS, methods=METHODS):
    """Return a list of rows, one per method and setting; what does not depend on a setting runs once."""
    keys = jax.random.split(jax.random.key(0), num_seeds)
    rows = []
    for method in methods:
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


def finals(rows, method, per_class, noise):
    """Return the final test accuracies of a method in a setting, in per cent, or none if it did not run."""
    for row in rows:
        if row["method"] == method and row["per_class"] in (None, per_class) and row["noise"] in (None, noise):
            return 100 * np.array(row["accuracy"]["final"])
    return np.array([])


def settings(rows):
    """Return the sizes of the clean set and the levels of noise."""
    return [sorted({row[key] for row in rows if row[key] is not None}) for key in ("per_class", "noise")]


def table(rows):
    """Return the table of the header: one line per setting."""
    counts, noises = settings(rows)
    lines = ["clean  wrong" + "".join(f"{method:>13}" for method in METHODS)]
    for count in counts:
        for noise in noises:
            cells = [finals(rows, method, count, noise) for method in METHODS]
            shown = [f"{cell.mean():.1f} ± {cell.std(ddof=1):.1f}" if cell.size else "" for cell in cells]
            lines.append(f"{count:5}  {noise:5.0%}" + "".join(f"{text:>13}" for text in shown))
    return "\n".join(lines)


def draw(rows):
    """Return a figure: test accuracy against the share of wrong labels, one panel per size of the clean set."""
    counts, noises = settings(rows)
    figure, axes = plt.subplots(1, len(counts), figsize=(4 * len(counts), 3.6), squeeze=False, sharey=True)
    shares = 100 * np.array(noises)
    for count, ax in zip(counts, axes[0], strict=True):
        for method, style in STYLES.items():
            values = [finals(rows, method, count, noise) for noise in noises]
            if all(value.size for value in values):
                means, spreads = np.mean(values, axis=1), np.std(values, axis=1, ddof=1)
                ax.plot(shares, means, ms=5, label=method, **style)
                ax.fill_between(shares, means - spreads, means + spreads, color=style["color"], alpha=0.1, lw=0)
        ax.set_title(f"{count} clean images per class", fontsize=10, loc="left")
        ax.set_xlabel("wrong labels (%)")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("test accuracy (%)")
    axes[0, 0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.tight_layout()
    return figure


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, a few steps, one setting")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sizes = {"num_seeds": 10, "num_steps": 2000, "num_records": 20}
    if options.quick:
        sizes = {"num_seeds": 2, "num_steps": 40, "num_records": 2, "noises": (0.4,), "per_class": (10,)}
        sizes["methods"] = ("primary_aux", "masking")
    rows = study(**sizes)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "noisy_labels.json").write_text(json.dumps({"sizes": sizes, "rows": rows}))
    draw(rows).savefig(options.out / "noisy_labels.png", dpi=100)
    print(table(rows))


if __name__ == "__main__":
    main()
