"""All trainings of one problem, stored as they come, so that an interrupted study goes on where it stopped."""

import json
import subprocess
from pathlib import Path

import numpy as np

from benchmarks.does_it_help import contestants, problems, search
from benchmarks.does_it_help.training import Course
from benchmarks.timing import machine


def commit():
    """Return the commit of the checkout, or nothing outside one."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def baselines(problem, course):
    """Train what comes first: the rate, random weights, and a network for each task alone."""
    num_tasks, equal = len(problem.tasks), np.ones(len(problem.tasks))
    tried = {rate: course.plain(equal, rate) for rate in search.RATES}
    scores = {rate: float(np.mean(search.criterion(problem, run.scores).min(-1))) for rate, run in tried.items()}
    rate = min(scores, key=scores.get)
    weights = search.trials(num_tasks, course.num_trials)
    runs = [tried[rate], *(course.plain(row, rate) for row in weights[1:])]
    single = [] if problem.trivial is None else [course.plain(row, rate) for row in np.eye(num_tasks)]
    return {
        "rate": rate,
        "rates": {str(rate): round(score, 5) for rate, score in scores.items()},
        "weights": weights.round(4).tolist(),
        "trials": [search.summarize(problem, run) for run in runs],
        "single": [search.summarize(problem, run, task) for task, run in enumerate(single)],
        "plain seconds": float(np.median([run.seconds for run in runs])),
    }


def gradients(course, rate):
    """Return how gradients lie to each other in a training with equal weights."""
    grams = course.grams(np.ones(course.num_tasks), rate).astype(float)
    lengths = np.sqrt(np.maximum(np.diagonal(grams, axis1=-2, axis2=-1), np.finfo(float).tiny))
    cosines = grams / (lengths[..., :, None] * lengths[..., None, :])
    worst = cosines.min(axis=(-2, -1))
    return {
        "conflict": round(float(np.mean(worst < 0)), 3),
        "worst cosine": round(float(worst.mean()), 3),
        "longest to shortest": float(f"{np.median(lengths.max(-1) / lengths.min(-1)):.3g}"),
    }


def row(problem, course, label, rate):
    """Train a method; a failure is a row too."""
    try:
        run = course.method(label, rate)
    except ValueError as error:
        return {"failed": str(error)}
    if not np.all(np.isfinite(run.errors)):
        return {"failed": "not finite"}
    return search.summarize(problem, run)


def study(name, path, *, num_seeds, num_steps=None, num_trials=search.NUM_TRIALS, only=None):
    """Run what `path` does not hold yet, and return all of it."""
    problem = problems.load(name)
    num_steps = num_steps or problem.num_steps
    names, absent = contestants.contestants(problem)
    wanted = [label for label in contestants.labels(names) if only is None or label in only]
    part = json.loads(path.read_text()) if path.exists() else {}
    settings = {"seeds": num_seeds, "steps": num_steps, "num_trials": num_trials}
    if any(part.get(key) != value for key, value in settings.items()):
        part = {}
    if "gradients" in part and not set(wanted) - set(part["rows"]):
        return part
    course = Course(problem, range(num_seeds), num_steps, num_trials)
    if not part:
        part = {"name": problem.name, "source": problem.source} | settings
        part |= {"tasks": problem.tasks, "trivial": problem.trivial, "counts": problem.counts, "rows": {}}
        part |= {"parameters": course.num_params, "machine": machine(), "commit": commit()}
        part |= baselines(problem, course)
        path.write_text(json.dumps(part))
    part["absent"] = absent
    if "gradients" not in part:
        part["gradients"] = gradients(course, part["rate"])
        path.write_text(json.dumps(part))
    for label in wanted:
        if label not in part["rows"]:
            part["rows"][label] = row(problem, course, label, part["rate"])
            path.write_text(json.dumps(part))
            print(f"{problem.name}: {label}", flush=True)
    return part
