"""The baselines that are chosen: the rate of Adam, and fixed weights by random search within a budget."""

import numpy as np

RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
NUM_TRIALS = 16
DECADES = 1.5  # a weight is 10 to the power of what is drawn between −1.5 and 1.5


def trials(num_tasks, num_trials=NUM_TRIALS):
    """Return rows of weights that sum to T; the first ones are equal."""
    exponents = np.random.default_rng(0).uniform(-DECADES, DECADES, (num_trials, num_tasks))
    exponents[0] = 0
    weights = 10**exponents
    return num_tasks * weights / weights.sum(axis=1, keepdims=True)


def criterion(problem, scores):
    """Return what is chosen by, low is good: from scores (..., T) the mean over the tasks that count.

    Each is counted in units of its trivial error, so that no task is chosen by for its units; physics has no such
    unit, and its losses are added up as they are in the training.
    """
    relative = scores if problem.trivial is None else scores / np.asarray(problem.trivial)
    relative = relative.mean(-1) if problem.counts is None else relative[..., problem.counts]
    return np.where(np.isfinite(relative), relative, np.inf)


def summarize(problem, run, task=None):
    """Keep the errors at the end and where the criterion was least, per seed; a single task is chosen by its own."""
    value = criterion(problem, run.scores) if task is None else run.scores[..., task]
    best = np.argmin(value, axis=-1)
    seeds = np.arange(len(best))
    return {
        "final": run.errors[:, -1].round(5).tolist(),
        "stopped": run.errors[seeds, best].round(5).tolist(),
        "chosen by, final": value[:, -1].astype(float).tolist(),
        "chosen by, stopped": value[seeds, best].astype(float).tolist(),
        "stops at": ((best + 1) / value.shape[-1]).tolist(),
        "seconds": float(f"{run.seconds:.3g}"),
    }


def within(budget, rows, how):
    """Return the errors of the best of the first ⌊budget⌋ trials for every seed, (seeds, T), and which they were.

    Args:
      budget: In plain trainings.
      rows: What `summarize` kept of the trials.
      how: "final" or "stopped".
    """
    rows = rows[: max(1, int(budget))]
    best = np.argmin([row[f"chosen by, {how}"] for row in rows], axis=0)
    return np.array([rows[i][how][seed] for seed, i in enumerate(best)]), best
