"""What the numbers of one problem say: relative differences, ranks, paired tests, verdicts."""

import jax.numpy as jnp
import numpy as np
from scipy import stats

import mtlgrad_jax as mtl
from benchmarks.does_it_help import contestants, search

LEVEL = 0.05


def errors_of(part, label, how):
    """Return the errors of a row, (seeds, T), or none if it failed."""
    if label == "single task":
        return np.stack([np.array(row[how])[:, task] for task, row in enumerate(part["single"])], axis=1)
    if label == "equal weights":
        return np.array(part["trials"][0][how])
    if label == "tuned weights":
        return search.within(len(part["trials"]), part["trials"], how)[0]
    row = part["rows"][label]
    return None if row.get("failed") else np.array(row[how])


def reference(part, how):
    """Return what is compared with: single-task networks, or for physics, where there are none, equal weights."""
    return errors_of(part, "single task" if part["single"] else "equal weights", how)


def delta(part, errors, how):
    """Return Δm for every seed in per cent, low is good: mean over tasks of the difference to the reference.

    Differences are relative to the mean of the reference over seeds, which a rare task without an error in the test set
    of one seed does not turn into a division by zero. Where one task counts it is that of this task.
    """
    unit = reference(part, how)
    relative = 100 * (errors - unit) / unit.mean(axis=0)
    return relative.mean(axis=1) if part["counts"] is None else relative[:, part["counts"]]


def budget(part, label):
    """Return what a step of a row costs in plain steps."""
    name = label.removeprefix(contestants.GUARD)
    measured = part["rows"][label]["seconds"] / part["plain seconds"]
    return max(1.0, measured) if label != name else contestants.backward_passes(name, measured)


def holm(p_values):
    """Return Holm's corrected p-values."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    raised = np.maximum.accumulate((len(p_values) - np.arange(len(p_values))) * p_values[order])
    corrected = np.empty_like(raised)
    corrected[order] = np.minimum(raised, 1)
    return corrected


def paired(ours, theirs):
    """Return the p-value of a paired t-test over seeds; 1 where all pairs are equal.

    Five pairs cannot be significant in Wilcoxon's test, whose least p-value is 2/2⁵.
    """
    difference = ours - theirs
    if not np.any(difference) or len(difference) < 2:
        return 1.0
    p_value = stats.ttest_1samp(difference, 0).pvalue if np.ptp(difference) > 0 else 1.0
    return float(p_value)


def table_of(part, how):
    """Return one entry per row of a problem, methods that failed included."""
    methods = [label for label, row in part["rows"].items() if not row.get("failed")]
    baselines = ["single task"] * bool(part["single"]) + ["equal weights", "tuned weights"]
    errors = {label: errors_of(part, label, how) for label in baselines + methods}
    counted = slice(None) if part["counts"] is None else slice(part["counts"], part["counts"] + 1)
    ranks = stats.rankdata([each[:, counted] for each in errors.values()], axis=0).mean(axis=(1, 2))
    deltas = {label: delta(part, each, how) for label, each in errors.items()}
    tuned = {
        "same budget": [
            delta(part, search.within(budget(part, label), part["trials"], how)[0], how) for label in methods
        ],
        "whole search": [deltas["tuned weights"]] * len(methods),
    }
    rows = {
        label: {
            "errors": errors[label].mean(0).round(5).tolist(),
            "deltas": each.round(2).tolist(),
            "delta": round(float(each.mean()), 3),
            "spread": round(float(each.std(ddof=1)), 3),
            "rank": round(float(rank), 2),
            "hypervolume": hypervolume(part, errors[label]),
        }
        for (label, each), rank in zip(deltas.items(), ranks, strict=True)
    }
    for against, theirs in tuned.items():
        for label, versus in zip(methods, compared([deltas[label] for label in methods], theirs), strict=True):
            rows[label] |= costs(part, label) | {against: versus}
    pairs = {label: chain_of(label) for label in methods if chain_of(label) in deltas}
    versus_chains = compared([deltas[label] for label in pairs], [deltas[chain] for chain in pairs.values()])
    for label, versus in zip(pairs, versus_chains, strict=True):
        rows[label]["its chain"] = versus
    return rows | {label: {"failed": row["failed"]} for label, row in part["rows"].items() if row.get("failed")}


def chain_of(label):
    """Return the row that a guarded one is a copy of but for the guard, or nothing for others."""
    name = label.removeprefix(contestants.GUARD)
    return "" if name == label else "equal weights" if name == "sum" else name


def compared(ours, theirs):
    """Compare pairs of Δm over seeds, all of them together: difference, corrected p-value, outcome."""
    p_values = holm([paired(one, other) for one, other in zip(ours, theirs, strict=True)])
    differences = [float(np.mean(one - other)) for one, other in zip(ours, theirs, strict=True)]
    outcome = lambda difference, p: "level" if p >= LEVEL else "better" if difference < 0 else "worse"
    return [
        {"difference": round(difference, 3), "p": round(float(p), 4), "outcome": outcome(difference, p)}
        for difference, p in zip(differences, p_values, strict=True)
    ]


def costs(part, label):
    """Return cost and time of a step in plain steps, the share of the whole search, and where it stops."""
    row, cost = part["rows"][label], budget(part, label)
    return {
        "cost": round(cost, 2),
        "share": round(cost / len(part["trials"]), 3),
        "time": round(row["seconds"] / part["plain seconds"], 2),
        "stops at": round(float(np.mean(row["stops at"])), 2),
    }


def hypervolume(part, errors):
    """Return the mean over seeds of the share below the trivial errors that errors dominate; two or three tasks."""
    if part["trivial"] is None or len(part["trivial"]) not in (2, 3):
        return None
    gains = np.maximum(1 - errors / np.array(part["trivial"]), 0)  # one point: the front's measure is a product
    return round(float(gains.prod(axis=1).mean()), 4)


def front(part, how):
    """Return the same of the front of all trials, by `mtl.fronts.hypervolume`."""
    if part["trivial"] is None or len(part["trivial"]) not in (2, 3):
        return None
    points = np.array([row[how] for row in part["trials"]]).swapaxes(0, 1) / np.array(part["trivial"])
    ones = jnp.ones(points.shape[2])
    return round(float(np.mean([mtl.fronts.hypervolume(jnp.asarray(each, jnp.float32), ones) for each in points])), 4)


def headline(rows, against):
    """Say whether tuned weights match all chains."""
    methods = {label: row[against] for label, row in rows.items() if against in row and not chain_of(label)}
    better = [label for label, row in methods.items() if row["outcome"] == "better"]
    better.sort(key=lambda label: methods[label]["difference"])
    worse = sum(row["outcome"] == "worse" for row in methods.values())
    text = "tuned weights match everything" if not better else f"{len(better)} beat tuned weights, first {better[0]}"
    return f"{text}; {worse} of {len(methods)} are worse"
