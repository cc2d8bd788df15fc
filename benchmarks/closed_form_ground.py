"""Claim: where the answer is known in closed form, the exact solvers give it, and MGDA descends along it.

    python -m benchmarks.closed_form_ground [--quick] [--out FOLDER]

Three grounds. (1) Gradients x - eᵢ, T = 2, 3, 8, 32, 128, twenty draws each: the shortest vector of their hull is
x - P(x), P the projection onto the simplex, taken in float64. (2) Frank-Wolfe with exact line search, from the
shortest row: on J = I (T = 100) every iterate after k steps is a mixture of k + 1 rows, so that ‖u‖² is at least
1/(k + 1) above zero, 1/T of which is the answer's; on three rows whose answer lies between two of them it zigzags
between these, at a rate of about 1/k (Canon & Cullum 1968) and below Jaggi's bound (2013). (3) Problems with known
Pareto sets: losses ½‖x - aᵢ‖² and JOS1, on which MGDA's iterates are exactly P + (1 - η)ᵏ(x₀ - P), P the
nearest point of the hull of the minima; Fonseca-Fleming (n = 3, 40 starts in [-1.5, 1.5]³, 2000 steps of Adam with
cosine decay from .01), whose front is concave, so that the mean of the losses is least at its ends.

Last run (jax 0.10.2, CPU, float32):

    claim                             published             ours                                      verdict
    x − eᵢ, |xᵢ| ≈ 0.1                u = x − P(x)          ‖u‖² off by 6e-08, w 4e-07 (Optax 4e-08)  agrees
    x − eᵢ, |xᵢ| ≈ 1                  u = x − P(x)          ‖u‖² off by 4e-08, w 3e-05 (Optax 2e-07)  agrees
    x − eᵢ, |xᵢ| ≈ 10                 u = x − P(x)          ‖u‖² off by 2e-08, w 1e-03 (Optax 1e-06)  agrees
    Frank-Wolfe on J = I              ≥ 1/(k+1) − 1/T       equal within 2e-08                        agrees
    Frank-Wolfe on the zigzag         about 1/k             like k^-0.91                              agrees
    exact solver, J = I               exact                 within 2e-10 after 1 steps                agrees
    exact solver, zigzag              exact                 within 4e-15 after 2 steps                agrees
    mgda, 3 anchors in the plane      P + (1 − η)ᵏ(x₀ − P)  within 1e-06 of ‖x₀ − P‖                  agrees
    mgda, 8 anchors in 20 dimensions  P + (1 − η)ᵏ(x₀ − P)  within 3e-07 of ‖x₀ − P‖                  agrees
    mgda, JOS1 in 30 dimensions       P + (1 − η)ᵏ(x₀ − P)  within 5e-07 of ‖x₀ − P‖                  agrees
    Fonseca-Fleming, mean             on its ends           worst 4e-07 away, 0% in its middle        agrees
    Fonseca-Fleming, mgda             on the Pareto set     worst 1e-07 away, 100% in its middle      agrees
    Fonseca-Fleming, upgrad           on the Pareto set     worst 3e-07 away, 82% in its middle       agrees

Outcome: all as theory says. Weights are less determined than updates: rows of length |x|√T that differ by √2 give
a float32 Gram matrix that knows the weights to ε·x²·T only, 1e-3 at |x| = 10 and T = 128, while ‖u‖² stays
exact to rounding; a projection of x itself, such as Optax's, does not go through G.
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
from scipy.optimize import nnls

import mtlgrad_jax as mtl
from benchmarks import pareto_distance, verdicts

RESULTS = Path(__file__).parent / "results"
SIZES = (2, 3, 8, 32, 128)
STEP_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
ZIGZAG = ((0.2, 1.2), (-1.0, 1.0), (1.5, 1.0))  # starts at the first row, the answer (0, 1) lies between the others
MIDDLE = 0.1  # how far from the ends of a Pareto set its middle begins
COLORS = {"mean": "#D55E00", "mgda": "#009E73", "upgrad": "#0072B2"}


def simplex_projection(x):
    """Return the projection onto the simplex in float64, by sorting."""
    ordered = np.sort(np.asarray(x, float))[::-1]
    levels = (np.cumsum(ordered) - 1) / np.arange(1, len(x) + 1)
    return np.maximum(x - levels[np.sum(ordered > levels) - 1], 0)


def projection_errors(num_tasks, length, num_draws):
    """Return the largest error of our weights, of Optax's, and our excess of ‖u‖², for x = length · N(0, I).

    The excess is relative to the longest row's square: ‖u‖ may vanish, and G has no more than float32 of its rows.
    """
    draws = length * np.random.default_rng(num_tasks).standard_normal((num_draws, num_tasks)).astype(np.float32)
    exact = draws.astype(float)
    wanted = np.stack([simplex_projection(x) for x in exact])

    def ours(x):
        task_grads = x - jnp.eye(num_tasks, dtype=x.dtype)
        return mtl.solvers.min_norm(mtl.jacobians.stacked.gram(task_grads)).x

    weights, peer = (
        np.asarray(jax.jit(jax.vmap(project))(draws), float) for project in (ours, optax.projections.projection_simplex)
    )
    longest = np.max(np.sum((exact[:, None] - np.eye(num_tasks)) ** 2, axis=-1), axis=1)
    excess = (np.sum((exact - weights) ** 2, axis=1) - np.sum((exact - wanted) ** 2, axis=1)) / longest
    return [float(np.max(np.abs(found))) for found in (weights - wanted, peer - wanted, excess)]


def shortest(rows):
    """Return the vector of smallest norm in the hull of the rows in float64, by scipy's NNLS."""
    size = np.abs(rows).max()
    matrix = np.concatenate([rows.T / size, np.ones((1, len(rows)))])
    x, _ = nnls(matrix, np.eye(len(matrix))[-1], maxiter=100 * len(rows))
    return x @ rows / x.sum()


def excess_over_steps(rows, step, step_counts):
    """Return ‖u‖² − ‖u*‖² after each number of Frank–Wolfe steps, and the exact solver's, with its steps."""
    gram = jnp.asarray(rows @ rows.T, jnp.float32)
    best = np.sum(shortest(rows) ** 2)

    def excess(solution):
        return float(np.sum((np.asarray(solution.x, float) @ rows) ** 2) - best)

    iterates = [mtl.solvers.frank_wolfe(gram, step=step, max_steps=count) for count in step_counts]
    exact = mtl.solvers.min_norm(gram)
    return [excess(iterate) for iterate in iterates], excess(exact), int(exact.num_steps)


def crawls(step_counts, num_rows):
    """Return the runs on J = I and on the zigzag, and the bounds that theory gives after k steps."""
    counts = np.array(step_counts)
    rows = {"J = I": np.eye(num_rows), "zigzag": np.array(ZIGZAG)}
    runs = {}
    for name, points in rows.items():
        diameter = max(np.sum((a - b) ** 2) for a in points for b in points)
        found, exact, exact_steps = excess_over_steps(points, "line_search", step_counts)
        runs[name] = {
            "excess": found,
            "upper": (4 * diameter / (counts + 2)).tolist(),  # Jaggi: ½‖u‖² within 2·diameter²/(k + 2)
            "exact": exact,
            "exact_steps": exact_steps,
        }
    runs["J = I"]["lower"] = np.maximum(1 / (counts + 1) - 1 / num_rows, 0).tolist()  # k + 1 active rows
    return runs


def isotropic(anchors):
    """Return losses ½‖x − aᵢ‖², whose Pareto set is the hull of the anchors."""
    return lambda x: 0.5 * jnp.sum((x - anchors) ** 2, axis=1)


def fonseca_fleming(num_params):
    """Return the two losses 1 − exp(−‖x ∓ 1/√n‖²), whose Pareto set is the segment between the centers."""
    center = jnp.full(num_params, num_params**-0.5)
    return lambda x: 1 - jnp.exp(-jnp.stack([jnp.sum((x - center) ** 2), jnp.sum((x + center) ** 2)]))


@partial(jax.jit, static_argnames=("losses", "tx", "num_steps"))
def descend(starts, *, losses, tx, num_steps):
    """Return where every run was after each step, shape (starts, 1 + num_steps, P)."""

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(mtl.task_value_and_grad(losses)(x)[1], state, x)
        return (optax.apply_updates(x, updates), state), x

    def run(start):
        (x, _), points = jax.lax.scan(step, (start, tx.init(start)), length=num_steps)
        return jnp.vstack([points, x])

    return jax.vmap(run)(starts)


def isotropic_error(anchors, starts, num_steps, rate=0.05, curvature=1.0):
    """Return the largest distance of MGDA's iterates from P(x₀) + (1 − η)ᵏ(x₀ − P(x₀)), relative to the first one."""
    losses = lambda x: curvature * isotropic(jnp.asarray(anchors, x.dtype))(x)
    tx = optax.chain(mtl.mgda(), optax.sgd(rate))
    points = np.asarray(descend(jnp.asarray(starts, jnp.float32), losses=losses, tx=tx, num_steps=num_steps))
    feet = np.stack([start - shortest(start - anchors) for start in starts])
    shrunk = (1 - rate * curvature) ** np.arange(num_steps + 1)
    formula = feet[:, None] + shrunk[:, None] * (starts - feet)[:, None]
    errors = np.linalg.norm(points - formula, axis=-1)
    return points, formula, float(np.max(errors / np.linalg.norm(starts - feet, axis=-1)[:, None]))


def known_sets(*, num_starts, num_steps, dimensions, methods):
    """Return how far MGDA is from its closed form and several methods from the Pareto set of Fonseca–Fleming."""
    rng = np.random.default_rng(0)
    plane = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.2]])
    starts = np.array([[-2.0, 1.5], [-2.0, -1.0], [0.4, -1.2], [2.0, 0.6], [1.2, 2.0], [-0.6, 2.2]])
    points, formula, flat = isotropic_error(plane, starts, num_steps)
    errors = {"3 anchors in the plane": flat}
    for size in dimensions:
        anchors, far = rng.standard_normal((8, size)), 3 * rng.standard_normal((num_starts, size))
        errors[f"8 anchors in {size} dimensions"] = isotropic_error(anchors, far, num_steps)[2]
    ends, far = np.stack([np.zeros(30), np.full(30, 2.0)]), 4 * rng.standard_normal((num_starts, 30))
    errors["JOS1 in 30 dimensions"] = isotropic_error(ends, far, num_steps, rate=0.75, curvature=2 / 30)[2]
    losses = fonseca_fleming(3)
    segment = np.outer([1.0, -1.0], np.full(3, 3**-0.5))
    boxed = jnp.asarray(rng.uniform(-1.5, 1.5, (num_starts, 3)), jnp.float32)
    fronts = {}
    for name in methods:
        schedule = optax.cosine_decay_schedule(1e-2, 4 * num_steps)
        tx = optax.chain(getattr(mtl, name)(), optax.adam(schedule))
        found = descend(boxed, losses=losses, tx=tx, num_steps=4 * num_steps)[:, -1]
        distances, places = pareto_distance.to_curve(found, segment)
        fronts[name] = {
            "distance": float(distances.max()),
            "middle": float(np.mean((places > MIDDLE) & (places < 1 - MIDDLE))),
            "losses": np.asarray(jax.vmap(losses)(found)).round(4).tolist(),
        }
    return {"isotropic": errors, "fronts": fronts}, (plane, points, formula)


def study(*, sizes, lengths, num_draws, step_counts, num_rows, **known):
    """Return the rows of the JSON, and the paths for the figure."""
    projection = {
        f"{length:g}": np.max([projection_errors(size, length, num_draws) for size in sizes], axis=0).tolist()
        for length in lengths
    }
    rows = {"projection": projection, "step_counts": list(step_counts), "crawls": crawls(step_counts, num_rows)}
    known_rows, paths = known_sets(**known)
    return rows | known_rows, paths


def verdicts_of(rows):
    """Return what theory says beside what came out."""
    found = []
    for length, (ours, peer, excess) in rows["projection"].items():
        text = f"‖u‖² off by {excess:.0e}, w {ours:.0e} (Optax {peer:.0e})"
        found.append(verdicts.verdict(f"x − eᵢ, |xᵢ| ≈ {length}", "u = x − P(x)", text, excess < 2e-6))
    identity, zigzag = rows["crawls"]["J = I"], rows["crawls"]["zigzag"]
    gaps, lower = np.array(identity["excess"]), np.array(identity["lower"])
    off = float(np.max(np.abs(gaps - lower)))
    agrees = np.all(gaps > lower - 1e-6)
    found.append(verdicts.verdict("Frank-Wolfe on J = I", "≥ 1/(k+1) − 1/T", f"equal within {off:.0e}", agrees))
    counts, excess = np.array(rows["step_counts"]), np.array(zigzag["excess"])
    late = counts >= 8
    slope = np.polyfit(np.log(counts[late]), np.log(np.maximum(excess[late], 1e-12)), 1)[0]
    agrees = -1.3 < slope < -0.7 and np.all(excess <= zigzag["upper"])
    found.append(verdicts.verdict("Frank-Wolfe on the zigzag", "about 1/k", f"like k^{slope:.2f}", agrees))
    for name, run in rows["crawls"].items():
        text = f"within {abs(run['exact']):.0e} after {run['exact_steps']} steps"
        found.append(verdicts.verdict(f"exact solver, {name}", "exact", text, abs(run["exact"]) < 1e-6))
    for name, error in rows["isotropic"].items():
        claim = f"mgda, {name}"
        found.append(verdicts.verdict(claim, "P + (1 − η)ᵏ(x₀ − P)", f"within {error:.0e} of ‖x₀ − P‖", error < 1e-5))
    for name, front in rows["fronts"].items():
        ours = f"worst {front['distance']:.0e} away, {front['middle']:.0%} in its middle"
        published, part = ("on its ends", front["middle"] == 0) if name == "mean" else ("on the Pareto set", True)
        agrees = front["distance"] < 1e-2 and part
        found.append(verdicts.verdict(f"Fonseca-Fleming, {name}", published, ours, agrees))
    return found


def table(rows):
    """Return the table of the header."""
    return verdicts.table(verdicts_of(rows))


def draw(rows, paths):
    """Return a figure: Frank–Wolfe's excess, MGDA's paths among three anchors, the front of Fonseca–Fleming."""
    figure, (crawl, plane, front) = plt.subplots(1, 3, figsize=(12, 3.9))
    counts = np.array(rows["step_counts"])
    for (name, run), color in zip(rows["crawls"].items(), ("#0072B2", "#E69F00"), strict=True):
        excess = np.array(run["excess"])
        shown = excess > 1e-7
        crawl.loglog(counts[shown], excess[shown], "o-", ms=4, color=color, label=f"Frank-Wolfe, {name}")
        level, steps = max(abs(run["exact"]), 1e-8), max(run["exact_steps"], 1)
        crawl.loglog(steps, level, "*", ms=13, color=color, mec="black", label=f"exact solver, {name}")
    crawl.loglog(counts, 1 / counts, ":", color="0.4", label="1/k")
    crawl.set(xlabel="steps k", ylabel="‖u‖² above the smallest")
    crawl.set_ylim(3e-9, 3)
    crawl.legend(frameon=False, fontsize=8, loc=(0.12, 0.16))
    crawl.set_title("Frank-Wolfe crawls", fontsize=10, loc="left")
    anchors, points, formula = paths
    plane.fill(*anchors.T, color="#F0E442", alpha=0.5, lw=0, label="Pareto set")
    plane.plot(*anchors.T, "k^", ms=7, label="minima of the losses")
    for index, (run, exact) in enumerate(zip(points, formula, strict=True)):
        plane.plot(*exact.T, color="#0072B2", lw=1, label=None if index else "closed form")
        plane.plot(*run[::4].T, "o", ms=3, color="#D55E00", label=None if index else "mgda, every fourth step")
    plane.set(xlabel="$x_1$", ylabel="$x_2$", ylim=(-1.4, 3.6))
    plane.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    plane.set_title("Isotropic quadratics", fontsize=10, loc="left")
    share = np.linspace(0, 2, 200)
    front.plot(1 - np.exp(-(share**2)), 1 - np.exp(-((2 - share) ** 2)), color="black", lw=1, label="Pareto front")
    for (name, run), marker in zip(rows["fronts"].items(), "XoD", strict=False):
        size = 9 if name == "mean" else 4
        front.plot(*np.transpose(run["losses"]), marker, ms=size, color=COLORS[name], alpha=0.8, mew=0, label=name)
    front.set(xlabel="loss 1", ylabel="loss 2")
    front.legend(frameon=False, fontsize=8)
    front.set_title("Fonseca-Fleming: where runs end", fontsize=10, loc="left")
    for ax in (crawl, plane, front):
        ax.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    return figure


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small problems, a few steps")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    settings = {"sizes": SIZES, "lengths": (0.1, 1.0, 10.0), "num_draws": 20, "step_counts": STEP_COUNTS}
    settings |= {"num_rows": 100, "num_starts": 40, "num_steps": 500, "dimensions": (20,), "methods": tuple(COLORS)}
    if options.quick:
        settings = {"sizes": (3,), "lengths": (1.0,), "num_draws": 3, "step_counts": (8, 16, 32)}
        settings |= {"num_rows": 3, "num_starts": 4, "num_steps": 20, "dimensions": (), "methods": ("mgda",)}
    rows, paths = study(**settings)
    options.out.mkdir(parents=True, exist_ok=True)
    stored = {"settings": settings, "rows": rows, "verdicts": verdicts_of(rows)}
    (options.out / "closed_form_ground.json").write_text(json.dumps(stored, indent=1) + "\n")
    draw(rows, paths).savefig(options.out / "closed_form_ground.png", dpi=85)
    print(table(rows))


if __name__ == "__main__":
    main()
