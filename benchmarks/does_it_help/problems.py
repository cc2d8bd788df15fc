"""The data: where it comes from, under which licence, and what is asked of it; nothing is downloaded.

A problem is functions of arrays, so that a study vmaps over seeds. Every seed has a split of its own: three fifths to
train, one to choose by (stopping, weights, rate), one to judge by.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

WIDTH = 64


class Problem(NamedTuple):
    """What a run starts from; `parts` of a sample are "train", "choose" and "judge"."""

    name: str
    source: str  # whose data, from where, licence
    tasks: tuple[str, ...]
    sample: Callable[[int], Any]  # seed -> arrays, NumPy
    init: Callable[[int], Any]  # seed -> params
    batches: Callable[[np.random.Generator, int], Any]  # (rng, n) -> n times which rows, or points: what steps are told
    losses: Callable[[Any, Any, Any], jax.Array]  # (params, batch, sample) -> (T,)
    score: Callable[[Any, Any], jax.Array]  # (params, sample) -> what is chosen by, low is good: (T,)
    errors: Callable[[Any, Any], jax.Array]  # (params, sample) -> what is judged by, low is good: (T,), physics (1,)
    trivial: tuple[float, ...] | None  # errors without looking at the input; None: physics, judged by one error
    num_steps: int
    counts: int | None = None  # the task that counts alone; None: all do


def network(seed, num_inputs, kinds):
    """Draw an MLP with He's variance; regressions start at zero, which is the mean of their targets."""
    rng = np.random.default_rng(seed)
    draw = lambda m, n: jnp.asarray(np.sqrt(2 / m) * rng.standard_normal((m, n)), jnp.float32)
    sizes = (num_inputs, WIDTH, WIDTH, sum(_widths(kinds)))
    layers = [{"w": draw(m, n), "b": jnp.zeros(n)} for m, n in itertools.pairwise(sizes)]
    starts = np.repeat([kind != "squares" for kind in kinds], _widths(kinds)).astype(np.float32)
    return [*layers[:-1], {"w": layers[-1]["w"] * starts, "b": layers[-1]["b"]}]


def apply(params, inputs):
    """Apply the MLP: a shared trunk with ReLU, and a linear head for each task side by side in the last layer."""
    for layer in params[:-1]:
        inputs = jax.nn.relu(inputs @ layer["w"] + layer["b"])
    return inputs @ params[-1]["w"] + params[-1]["b"]


def _widths(kinds):
    return [kind if isinstance(kind, int) else 1 for kind in kinds]


def _outputs(params, inputs, kinds):
    return jnp.split(apply(params, inputs), np.cumsum(_widths(kinds))[:-1], axis=1)


def _loss(kind, output, target):
    if isinstance(kind, int):
        return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(output, target.astype(jnp.int32)))
    if kind == "binary":
        return jnp.mean(optax.losses.sigmoid_binary_cross_entropy(output[:, 0], target))
    return jnp.mean((output[:, 0] - target) ** 2)


def _error(kind, output, target, variance):
    if isinstance(kind, int):
        return jnp.mean((jnp.argmax(output, axis=1) != target.astype(jnp.int32)).astype(jnp.float32))
    if kind == "binary":
        return 1 - _area_under_curve(output[:, 0], target)
    return jnp.mean((output[:, 0] - target) ** 2) / variance


def _area_under_curve(scores, target):
    """Return the share of pairs of one with and one without the label that are in the right order, by Mann and Whitney.

    A tie is half a pair: U = Σ rank − n(n + 1)/2 over the n examples with the label, equal scores sharing their ranks.
    """
    in_order, number, others = jnp.sort(scores), jnp.sum(target), jnp.sum(1 - target)
    below = jnp.searchsorted(in_order, scores, side="left", method="sort")
    up_to = jnp.searchsorted(in_order, scores, side="right", method="sort")
    ranks = 0.5 * (below + up_to + 1).astype(scores.dtype)
    pairs = number * others
    return jnp.where(pairs > 0, (jnp.sum(ranks * target) - number * (number + 1) / 2) / jnp.maximum(pairs, 1), 0.5)


def supervised(name, source, tasks, kinds, sample, *, num_inputs, variances=None, batch_size=64, num_steps=600, **more):
    """Make a problem of inputs and targets.

    A kind is a number of classes (judged by the share of errors), "binary" (by 1 − AUC) or "squares" (by the mean
    squared error over the variance); `sample` is a function from a seed to {part: (inputs, targets (n, T))}.
    """
    variances = variances or (1.0,) * len(kinds)

    def batches(rng, num_batches):
        return rng.random((num_batches, batch_size), np.float32)  # places in the training set, as shares of it

    def losses(params, places, arrays):
        size = arrays["train"][0].shape[0]
        which = jnp.minimum((size * places).astype(jnp.int32), size - 1)
        inputs, targets = (array[which] for array in arrays["train"])
        outputs = _outputs(params, inputs, kinds)
        return jnp.stack(
            [_loss(kind, out, targets[:, i]) for i, (kind, out) in enumerate(zip(kinds, outputs, strict=True))]
        )

    def errors(part, params, arrays):
        inputs, targets = arrays[part]
        rows = zip(kinds, _outputs(params, inputs, kinds), variances, strict=True)
        return jnp.stack([_error(kind, out, targets[:, i], v) for i, (kind, out, v) in enumerate(rows)])

    return Problem(
        name, source, tasks, sample, lambda seed: network(seed, num_inputs, kinds), batches, losses,
        lambda params, arrays: errors("choose", params, arrays), lambda params, arrays: errors("judge", params, arrays),
        tuple(1 - 1 / kind if isinstance(kind, int) else {"binary": 0.5, "squares": 1.0}[kind] for kind in kinds),
        num_steps, **more,
    )  # fmt: skip


def in_parts(inputs, targets):
    """Return the function from a seed to a random split in three fifths, one and one."""
    inputs, targets = np.asarray(inputs, np.float32), np.asarray(targets, np.float32)

    def sample(seed):
        order = np.random.default_rng(seed).permutation(len(inputs))
        parts = np.split(order, [3 * len(order) // 5, 4 * len(order) // 5])
        return {
            part: (inputs[rows], targets[rows]) for part, rows in zip(("train", "choose", "judge"), parts, strict=True)
        }

    return sample


def standardised(columns):
    """Return columns of mean zero and variance one; constant ones are left out."""
    columns = np.asarray(columns, np.float64)
    spread = columns.std(0)
    return ((columns - columns.mean(0)) / np.where(spread > 0, spread, 1))[:, spread > 0]


def yeast():
    """Fourteen functions of a gene, from micro-arrays: many tasks of one kind, some of them rare."""
    from river import datasets

    rows = list(datasets.Yeast())
    inputs = standardised([list(x.values()) for x, _ in rows])
    targets = np.array([[float(value) for value in y.values()] for _, y in rows])
    return supervised(
        "yeast",
        "2417 genes × 103, Elisseeff & Weston 2001, MULAN's copy (OpenML 40597) in river 0.26 (BSD-3-Clause); for the "
        "data themselves MULAN's repository, river and R's mldr.datasets state no licence",
        tuple(f"class {number}" for number in range(1, 15)),
        ("binary",) * 14,
        in_parts(inputs, targets),
        num_inputs=inputs.shape[1],
        num_steps=400,
    )  # fmt: skip


def solar_flare():
    """Three counts of flares, each ten times as rare as the one before: scales that differ by nature."""
    from river import datasets

    rows = list(datasets.SolarFlare())
    names = list(rows[0][0])
    columns = [np.array([x[name] for x, _ in rows]) for name in names]
    inputs = standardised(np.concatenate([c[:, None] == np.unique(c)[None] for c in columns], axis=1))
    targets = np.array([list(y.values()) for _, y in rows], float)
    targets -= targets.mean(0)
    return supervised(
        "solar flare",
        "1066 regions × 10, UCI (CC BY 4.0), in river 0.26",
        ("common", "moderate", "severe"),
        ("squares",) * 3,
        in_parts(inputs, targets),
        num_inputs=inputs.shape[1],
        variances=tuple(targets.var(0)),
        num_steps=500,
    )


def _three_sets_of_digits(seed):
    from mtlgrad_jax.demo import data

    train, rest = data.split_digits(seed, held_out=0.4)
    half = np.random.default_rng(seed).permutation(len(rest.labels)) < len(rest.labels) // 2
    return {"train": (train, 4000), "choose": (data.take(rest, half), 1000), "judge": (data.take(rest, ~half), 1000)}


def _canvases(seed, targets_of):
    from mtlgrad_jax.demo import data

    rng = np.random.default_rng(seed)
    parts = {part: (d, data.overlap(d, n, rng)) for part, (d, n) in _three_sets_of_digits(seed).items()}
    return {
        part: (pairs.canvases.reshape(len(pairs.canvases), -1), targets_of(d, pairs).astype(np.float32))
        for part, (d, pairs) in parts.items()
    }


def overlapping_digits():
    """The left and the right one of two digits that cover half of each other: two like tasks."""
    return supervised(
        "digits",
        "scikit-learn's 1797 digits (UCI, CC BY 4.0), laid over each other in pairs",
        ("left", "right"),
        (10, 10),
        lambda seed: _canvases(seed, lambda digits, pairs: pairs.labels),
        num_inputs=96,
    )


def digits_in_units():
    """What the left digit is, and how much ink the right one has, in grey levels of 1/16: units that differ by far."""
    from sklearn.datasets import load_digits

    ink = load_digits().images.sum((1, 2))

    def targets_of(digits, pairs):
        return np.stack([pairs.labels[:, 0], ink[pairs.identity[:, 1]] - ink.mean()], axis=1)

    return supervised(
        "digits in units",
        "the same canvases; the second target is a sum of grey levels, of variance 2000",
        ("left", "ink"),
        (10, "squares"),
        lambda seed: _canvases(seed, targets_of),
        num_inputs=96,
        variances=(1.0, float(ink.var())),
    )


def two_signals():
    """Two of MNIST-1D's signals added up, the second one turned around: two like, hard tasks."""
    from mnist1d.data import get_dataset_args, make_dataset

    args = get_dataset_args()
    made = make_dataset(args)
    signals = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)
    labels = np.concatenate([made["y"], made["y_test"]])

    def sample(seed):
        rng = np.random.default_rng(seed)
        parts = np.split(rng.permutation(len(labels)), [3000, 4000])
        arrays = {}
        for part, rows in zip(("train", "choose", "judge"), parts, strict=True):
            first, second = rng.choice(rows, (2, 6000 if part == "train" else 1000))
            inputs = signals[first] + signals[second][:, ::-1]
            arrays[part] = inputs, np.stack([labels[first], labels[second]], axis=1).astype(np.float32)
        return arrays

    return supervised(
        "two signals",
        "mnist1d 0.0.2 (Apache-2.0) makes 5000 signals from ten templates; two are added up, one of them reversed",
        ("first", "second"),
        (10, 10),
        sample,
        num_inputs=40,
    )


def visits():
    """Visits to a doctor, log(1 + n), the task that counts, beside chronic diseases and physical limitations."""
    from statsmodels.datasets import randhie

    table = randhie.load_pandas().data
    targets = table[["mdvis", "disea", "physlm"]].to_numpy(float)
    targets[:, 0] = np.log1p(targets[:, 0])
    targets -= targets.mean(0)
    inputs = standardised(table[["lncoins", "idp", "lpi", "fmde", "hlthg", "hlthf", "hlthp"]].to_numpy(float))
    return supervised(
        "visits",
        "RAND's health insurance experiment, 20190 people × 7, in statsmodels 0.15 (public domain)",
        ("visits", "diseases", "limitation"),
        ("squares",) * 3,
        in_parts(inputs, targets),
        num_inputs=inputs.shape[1],
        variances=tuple(targets.var(0)),
        counts=0,
    )


def load(name):
    """Make a problem by the name of the function that does."""
    from benchmarks.does_it_help import physics

    return {**MAKERS, "burgers": physics.burgers, "helmholtz": physics.helmholtz}[name]()


MAKERS = {
    "yeast": yeast,
    "solar_flare": solar_flare,
    "digits": overlapping_digits,
    "digits_units": digits_in_units,
    "two_signals": two_signals,
    "visits": visits,
}
ALIKE = (
    ("yeast",),
    ("solar_flare", "visits", "burgers"),
    ("digits", "digits_units", "two_signals", "helmholtz"),
)  # by their number of tasks, which a method is compiled for
NAMES = tuple(name for group in ALIKE for name in group)
