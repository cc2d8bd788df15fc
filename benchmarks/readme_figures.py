"""Claim: what the figures of the README say; `mtlgrad_jax.plots` draws them.

    python -m benchmarks.readme_figures [--quick] [--out FOLDER]

*geometry*: two gradients that oppose each other, the first one longer. Their sum raises the loss of the second; the
shortest of their weighted averages (MGDA) raises neither.

*paths*: two quadratic losses of two parameters, 1500 steps, as long for every method and shrinking to zero. Counted
are the steps that raise a loss.

*solvers*: the gap of Frank–Wolfe after so many iterations, and of the exact solver, on T = 32 Gaussian gradients of 64
entries whose lengths spread over one decade.

    geometry   cosine of sum with g_2                         -0.27
    geometry   cosine of mgda with g_2                        0.63
    paths      steps of sum of the losses that raise a loss   71%
    paths      steps of mgda that raise a loss                0%
    paths      steps of upgrad that raise a loss              0%
    paths      steps of primary_aux that raise a loss         0%
    solvers    Frank–Wolfe, line search, 3000 iterations      7e-06
    solvers    Frank–Wolfe, step 2/(k+2), 3000 iterations     1e-05
    solvers    exact, 2 steps                                 8e-10
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import mtlgrad_jax as mtl

RESULTS = Path(__file__).parent / "results"
ROWS = jnp.array([[3.7, 0.5], [-1.0, 1.0]])
CENTERS = jnp.array([[-1.0, -0.4], [1.2, 0.4]])
SHAPES = jnp.array([[[2.5, 1.5], [1.5, 10.0]], [[3.0, 1.0], [1.0, 2.0]]])
START = jnp.array([1.9, -0.7])
METHODS = {
    "sum of the losses": mtl.weightings.sum,
    "mgda": mtl.weightings.mgda,
    "upgrad": mtl.weightings.upgrad,
    "primary_aux": mtl.weightings.primary_aux,
}


def geometry():
    """Return the picture of two gradients, and the cosine of each with their sum."""
    gram = ROWS @ ROWS.T
    ax = mtl.plots.geometry(ROWS, {"sum": ROWS.sum(axis=0), "mgda": mtl.weightings.mgda(gram) @ ROWS})
    ax.set(title="", xlabel="")
    ax.set_title("Adding two losses can raise one of them", loc="left", fontsize=11)
    cosines = {
        "sum": mtl.diagnostics.alignment(gram, jnp.ones(2)),
        "mgda": mtl.diagnostics.alignment(gram, mtl.weightings.mgda(gram)),
    }
    return ax.figure, {f"cosine of {name} with g_2": f"{float(values[1]):.2f}" for name, values in cosines.items()}


def losses_fn(theta):
    shift = theta[None, :] - CENTERS
    return 0.5 * jnp.einsum("ti,tij,tj->t", shift, SHAPES, shift)


def walk(weighting, num_steps):
    """Return the parameters and the losses along a path of shrinking steps, and the worst cosine of each."""
    lengths = 6 / num_steps * (1 + jnp.cos(jnp.linspace(0, jnp.pi, num_steps)))

    def step(theta, length):
        losses, rows = mtl.task_value_and_grad(losses_fn)(theta)
        gram = rows @ rows.T
        weights = weighting(gram)
        update = weights @ rows
        size = jnp.linalg.norm(update)
        worst = jnp.min(mtl.diagnostics.alignment(gram, weights))
        return theta - length * update / jnp.where(size > 0, size, 1), (theta, losses, worst)

    return jax.lax.scan(step, START, lengths)[1]


def pareto_set():
    """Return the minimisers of all weighted sums of the two losses."""
    shares = np.linspace(0, 1, 200)[:, None, None]
    shapes, centers = np.asarray(SHAPES), np.asarray(CENTERS)
    targets = np.einsum("tij,tj->ti", shapes, centers)
    mixed = shares * shapes[0] + (1 - shares) * shapes[1]
    return np.linalg.solve(mixed, (shares[..., 0] * targets[0] + (1 - shares[..., 0]) * targets[1])[..., None])[..., 0]


def paths(num_steps):
    """Return the picture of paths, and the share of steps in which each raised a loss."""
    runs = {name: jax.jit(walk, static_argnums=(0, 1))(weighting, num_steps) for name, weighting in METHODS.items()}
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), width_ratios=(1.25, 1), layout="constrained")
    pareto = pareto_set()
    thetas = {name: run[0] for name, run in runs.items()}
    mtl.plots.landscape(losses_fn, thetas, pareto=pareto, ax=left).get_legend().remove()
    front = jax.vmap(losses_fn)(jnp.asarray(pareto, jnp.float32))
    mtl.plots.front({name: run[1] for name, run in runs.items()}, pareto=front, ax=right)
    left.set_title("The parameters, from ● to ■", loc="left", fontsize=11)
    right.set_title("The losses", loc="left", fontsize=11)
    resolution = mtl.diagnostics.resolution("float32")
    hurt = {name: f"{np.mean(run[2] < -resolution):.0%}" for name, run in runs.items()}
    return figure, {f"steps of {name} that raise a loss": share for name, share in hurt.items()}


def solvers(most_steps):
    """Return the picture of gaps, and the gap and steps at the end."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((32, 64)) * np.logspace(-1, 0, 32)[:, None]
    gram = mtl.jacobians.stacked.gram(jnp.asarray(rows, jnp.float32))
    steps = np.unique(np.logspace(0, np.log10(most_steps), 14).astype(int))
    gaps = {
        f"Frank–Wolfe, {name}": [
            float(mtl.solvers.frank_wolfe(gram, step=step, max_steps=int(count)).gap) for count in steps
        ]
        for name, step in {"line search": "line_search", "step 2/(k+2)": "2/(k+2)"}.items()
    }
    answer = mtl.solvers.min_norm(gram)
    ax = mtl.plots.convergence(gaps, steps=steps, exact=(answer.num_steps, answer.gap))
    last = {f"{name}, {steps[-1]} iterations": f"{values[-1]:.0e}" for name, values in gaps.items()}
    return ax.figure, last | {f"exact, {int(answer.num_steps)} steps": f"{float(answer.gap):.0e}"}


def table(numbers):
    """Return the lines of the header."""
    return "\n".join(f"    {name:10} {label:46} {value}" for name, of in numbers.items() for label, value in of.items())


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    made = {
        "geometry": geometry(),
        "paths": paths(20 if options.quick else 1500),
        "solvers": solvers(10 if options.quick else 3000),
    }
    for name, (figure, _) in made.items():
        figure.savefig(options.out / f"readme_{name}.png", dpi=100, bbox_inches="tight", pad_inches=0.05)
        plt.close(figure)
    numbers = {name: found for name, (_, found) in made.items()}
    (options.out / "readme_figures.json").write_text(json.dumps(numbers))
    print(table(numbers))


if __name__ == "__main__":
    main()
