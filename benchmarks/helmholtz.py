"""Claim: on Helmholtz' equation PCGrad and DCGD beat Adam on the sum, and MGDA does not learn at all.

    python -m benchmarks.helmholtz [--quick | --full | --add] [--out FOLDER]

Table 1 of DCGD's paper (arXiv 2409.18426) with its published code's settings: Δu + u = f on [−1, 1]² with the solution
sin(πx)·sin(4πy), u = 0 on the boundary. Network 2-50-50-50-1 with tanh on coordinates divided by their standard
deviation; 1280 points inside and 128 on each side in every step; two losses; Adam at 1e-3, which falls by a tenth every
1000 steps. The relative error on a grid of 100 × 100 points is that of the network with the least loss in any step.
All 50000 steps, three seeds at 1e-3; published: ten seeds, the best of three rates (`--full` runs ten seeds).
`--add` trained, on the first seed and for a fifth of the steps, the ways to weigh losses for physics that `burgers.py`
names, the first three computed every 500 steps; rates and batches are those with which the others began.

Relative error of the solution, mean (and every seed), and how it compares with Adam's; a method "agrees" if it is on
the published side of Adam (jax 0.10.2, CPU):

    claim            published                               ours                                    verdict
    Adam             0.0609, 1.0× less                       0.0937 (0.053 0.149 0.079), 1.0× less   -
    pcgrad           0.0109, 5.6× less                       0.0084 (0.008 0.010 0.008), 11.1× less  agrees
    mgda             0.7590, 12.5× more                      1.0561 (0.929 1.062 1.177), 11.3× more  agrees
    dcgd projection  0.0089, 6.8× less                       0.0087 (0.006 0.012 0.008), 10.8× less  agrees
    dcgd center      0.0029, 21.0× less                      0.0031 (0.002 0.005 0.002), 30.6× less  agrees
    best first       center, projection, pcgrad, Adam, mgda  center, pcgrad, projection, Adam, mgda  differs

    first seed       after 10000 steps
    gradient norms   0.0154, 11.7× less
    dcgd center      0.0170, 10.6× less
    pcgrad           0.0179, 10.1× less
    NTK              0.0207, 8.7× less
    dcgd projection  0.0312, 5.8× less
    self-adaptive    0.0445, 4.1× less
    ReLoBRaLo        0.1312, 1.4× less
    SoftAdapt        0.1369, 1.3× less
    Adam             0.1803, 1.0× less
    annealing        0.3355, 1.9× more
    mgda             1.0260, 5.7× more

Outcome: reproduced. The methods that resolve the conflict end eleven to thirty times better than Adam on the sum
(published: 6 to 21 times), DCGD (center) is the best of them on every seed, and the errors of these three are within
a quarter of the published ones. The order "differs" in one place only, where nothing can be told: PCGrad and DCGD
(projection) are 4 % apart and their seeds a factor of two (published: 20 % apart). Adam follows the residual, whose
gradient is the longer one: it first finds a function with the wrong boundary values and is slow to correct it. MGDA
does the reverse: its boundary loss is below 1e-4 and its residual a third to a half of that of u = 0. DCGD (center) is
a slow starter, the best only from about 10000 steps on.

Of the weights that others use for physics, gradient norms and those of the neural tangent kernel are level with these
three after a fifth of the steps (one seed), and need no gradient of a single loss between their refreshes;
self-adaptive weights help half as much, ReLoBRaLo and SoftAdapt little, annealing not. That is not the order of
Burgers' equation, where of these only the kernel's weights help: it is the one that helps on both.
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
from benchmarks import pinn, verdicts

SIZES = (2, 50, 50, 50, 1)
NUM_INTERIOR, NUM_PER_SIDE = 1280, 128
FREQUENCIES = (1, 4)
LEARNING_RATE = 1e-3
SPREAD = 3**-0.5  # standard deviation of a coordinate that is uniform on [−1, 1]; the network sees points divided by it
RESULTS = Path(__file__).parent / "results"

PUBLISHED = {"Adam": 0.0609, "pcgrad": 0.0109, "mgda": 0.7590, "dcgd projection": 0.0089, "dcgd center": 0.0029}
REFRESH = 500  # steps between two computations of weights that are averaged: a chapter of the record
METHODS = (*PUBLISHED, *pinn.directions(REFRESH))
SHORT = 20  # records that `--add` trains, of 500 steps: batches and rates are the first ones of the whole training
STYLES = {
    "Adam": {"color": "#000000", "ls": "--"},
    "mgda": {"color": "#CC79A7"},
    "pcgrad": {"color": "#E69F00"},
    "dcgd projection": {"color": "#56B4E9"},
    "dcgd center": {"color": "#0072B2", "lw": 2.5},
}


def exact(points):
    """Return sin(πx)·sin(4πy)."""
    return jnp.sin(FREQUENCIES[0] * jnp.pi * points[:, 0]) * jnp.sin(FREQUENCIES[1] * jnp.pi * points[:, 1])


def test_grid(num_places=100):
    """Return the points of the published test grid, and the solution there."""
    places = np.linspace(-1, 1, num_places)
    points = jnp.asarray(np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2), jnp.float32)
    return points, exact(points)


def source(points):
    """Return f = Δu + u."""
    return (1 - (FREQUENCIES[0] ** 2 + FREQUENCIES[1] ** 2) * jnp.pi**2) * exact(points)


def interior_points(key):
    """Draw points of the square."""
    return jax.random.uniform(key, (NUM_INTERIOR, 2), minval=-1, maxval=1)


def boundary_points(key):
    """Draw points on the four sides."""
    places = jax.random.uniform(key, (2, 2, NUM_PER_SIDE), minval=-1, maxval=1)
    ends = jnp.broadcast_to(jnp.array([-1.0, 1.0])[:, None], places.shape[1:])
    sides = [jnp.stack([ends, places[0]], axis=-1), jnp.stack([places[1], ends], axis=-1)]
    return jnp.concatenate(sides).reshape(-1, 2)


def interior_residual(params, points):
    """Return the residual of Δu + u = f."""
    u, _, _, laplacian = pinn.derivatives(params, points / SPREAD, (SPREAD**-2, SPREAD**-2))
    return laplacian + u - source(points)


def boundary_residual(params, points):
    """Return twice the error, whose mean square is that of the four sides added up; the solution is zero there."""
    return 2 * pinn.apply(params, points / SPREAD)


DRAWN, RESIDUALS = (interior_points, boundary_points), (interior_residual, boundary_residual)
LOSSES = [pinn.loss_of(*terms) for terms in zip(RESIDUALS, DRAWN, strict=True)]


def optimizer(method):
    """Return the Optax transformation, with the published schedule."""
    direction = pinn.directions(REFRESH) | {
        "Adam": mtl.sum,
        "pcgrad": mtl.pcgrad,
        "mgda": mtl.mgda,
        "dcgd projection": partial(mtl.dcgd, variant="projection"),
        "dcgd center": partial(mtl.dcgd, variant="center"),
    }
    schedule = optax.exponential_decay(LEARNING_RATE, 1000, 0.9, staircase=True)
    return optax.chain(direction[method](num_tasks=2), optax.adam(schedule))


def train(key, *, points, solution, method, num_steps, num_records):
    """Train one network; return, over time, the relative error of the network with the least loss so far."""
    init_key, batch_key = jax.random.split(key)
    params, tx = pinn.init(init_key, SIZES), optimizer(method)

    def step(fresh, carry, step_key):
        params, state, best, least = carry
        keys = list(jax.random.split(step_key))
        losses, rows = mtl.separate_value_and_grad(LOSSES)(params, keys)
        total = jnp.sum(losses)
        best = jax.tree.map(lambda new, old: jnp.where(total < least, new, old), params, best)
        updates, state = tx.update(rows, state, params, losses=losses, fresh=fresh)
        carry = optax.apply_updates(params, updates), state, best, jnp.minimum(total, least)
        gram = mtl.jacobians.stacked.gram(rows)
        return carry, (losses, gram[0, 1] < 0, jnp.diagonal(gram))

    def chapter(carry, chapter_key):
        fresh = pinn.fresh_weights(method, carry[0], chapter_key, RESIDUALS, DRAWN, interior=0)
        keys = jax.random.split(chapter_key, num_steps // num_records)
        carry, steps = jax.lax.scan(partial(step, fresh), carry, keys)
        losses, conflicts, squares = jax.tree.map(lambda values: jnp.mean(values, axis=0, dtype=jnp.float32), steps)
        error = jnp.linalg.norm(pinn.apply(carry[2], points / SPREAD) - solution) / jnp.linalg.norm(solution)
        return carry, {"error": error, "losses": losses, "conflicts": conflicts, "lengths": jnp.sqrt(squares)}

    start = (params, tx.init(params), params, jnp.array(jnp.inf))
    return jax.lax.scan(chapter, start, jax.random.split(batch_key, num_records))[1]


def summarize(history):
    """Keep the error over time, and the losses at the end."""
    errors = [float(f"{value:.4g}") for value in history["error"]]
    conflicts = round(float(history["conflicts"].mean()), 4)
    return {"final": errors[-1], "error": errors, "losses": history["losses"][-1].tolist(), "conflicts": conflicts}


def study(*, methods=METHODS, save=lambda rows: None, **sizes):
    """Return one row per method and seed, handing them to `save` as they come."""
    points, solution = test_grid()
    return pinn.study(partial(train, points=points, solution=solution), summarize, methods=methods, save=save, **sizes)


def finals(rows, method):
    """Return the final relative error of every seed."""
    return np.array([row["final"] for row in rows if row["method"] == method])


def verdicts_of(rows):
    """Return what was published, what came out here and whether they agree."""
    ours = {method: finals(rows, method) for method in PUBLISHED if finals(rows, method).size}
    lines = []
    for method, final in ours.items():
        times = np.mean(ours["Adam"]) / np.mean(final) if "Adam" in ours else np.nan
        claimed = PUBLISHED["Adam"] / PUBLISHED[method]
        text = f"{np.mean(final):.4f} ({' '.join(f'{value:.3f}' for value in final)}), {compared(times)}"
        agrees = (times > 1) == (claimed > 1) if method != "Adam" and "Adam" in ours else None
        published = f"{PUBLISHED[method]:.4f}, {compared(claimed)}"
        lines.append(verdicts.verdict(method, published, text, agrees))
    order = sorted(ours, key=PUBLISHED.get), sorted(ours, key=lambda method: np.mean(ours[method]))
    lines.append(verdicts.verdict("best first", *map(listed, order), order[0] == order[1]))
    return lines


def after_a_fifth(rows):
    """Return the error of every method on the first seed at the end of what `--add` trains, the least first."""
    errors = {row["method"]: row["error"][SHORT - 1] for row in rows if row["seed"] == 0 and len(row["error"]) >= SHORT}
    if errors.keys() <= PUBLISHED.keys():
        return ""
    lines = [f"{'first seed':15}  after 10000 steps"]
    for method, error in sorted(errors.items(), key=lambda item: item[1]):
        lines.append(f"{method:15}  {error:.4f}, {compared(errors['Adam'] / error)}")
    return "\n".join(lines)


def table(rows):
    """Return the tables of the header: one line per published method and their order, and all methods early on."""
    return "\n\n".join(filter(None, (verdicts.table(verdicts_of(rows)), after_a_fifth(rows))))


def listed(methods):
    """Name methods in a row, DCGD's by their variant."""
    return ", ".join(method.removeprefix("dcgd ") for method in methods)


def compared(times):
    """Put a ratio to Adam's error in words."""
    return f"{times:.1f}× less" if times >= 1 else f"{1 / times:.1f}× more"


def draw(rows, num_steps):
    """Return a figure: the error over time, and the published errors at the right edge."""
    figure, ax = plt.subplots(figsize=(7, 4))
    for method, style in STYLES.items():
        errors = np.array([row["error"] for row in rows if row["method"] == method])
        if not errors.size:
            continue
        steps = np.linspace(0, num_steps, errors.shape[1] + 1)[1:]
        ax.plot(steps, np.exp(np.mean(np.log(errors), axis=0)), label=method, **style)
        ax.fill_between(steps, errors.min(0), errors.max(0), color=style["color"], alpha=0.12, lw=0)
        ax.plot(1.04 * num_steps, PUBLISHED[method], "D", ms=7, mfc="none", color=style["color"], clip_on=False)
    ax.plot([], [], "D", ms=7, mfc="none", color="0.4", label="published, 50000 steps")
    ax.set(yscale="log", xlabel="step", ylabel="relative error of the solution", xlim=(0, 1.06 * num_steps))
    ax.set_title("Mean over seeds, and their range", fontsize=10, loc="left")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper right", ncol=3)
    figure.tight_layout()
    return figure


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, a few steps, one method")
    parser.add_argument("--full", action="store_true", help="ten seeds, as in the paper")
    parser.add_argument(
        "--add", action="store_true", help="train what the results lack, a fifth of the steps on one seed"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    sizes = {"num_seeds": 10 if options.full else 3, "num_steps": 50_000, "num_records": 100}
    if options.quick:
        sizes = {"num_seeds": 2, "num_steps": 6, "num_records": 2, "methods": ("dcgd center",)}
    options.out.mkdir(parents=True, exist_ok=True)
    before, chosen = [], {}
    if options.add:
        before, lacking = pinn.stored(options.out / "helmholtz.json", METHODS)
        chosen = {"num_seeds": 1, "methods": lacking, "num_records": SHORT}
        chosen["num_steps"] = SHORT * sizes["num_steps"] // sizes["num_records"]

    def save(rows):
        stored = {"sizes": sizes, "rows": before + rows, "verdicts": verdicts_of(before + rows)}
        (options.out / "helmholtz.json").write_text(json.dumps(stored))

    rows = before + study(**sizes | chosen, save=save)
    draw(rows, sizes["num_steps"]).savefig(options.out / "helmholtz.png", dpi=100)
    print(table(rows))


if __name__ == "__main__":
    main()
