"""How far the published iteration of SDMGrad ends from the solution of its program, and what the exact option does.

    python -m benchmarks.sdmgrad_iteration [--quick] [--out FOLDER]

20 projected steps at rate 10 with momentum .5, as the authors' code has it, against rate .5 and against
`solver=mtl.solvers.min_norm`: max |w − w*| of 200 Gaussian gradients of four tasks in twenty dimensions, both batches
the same, w* by scipy's NNLS in float64.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import nnls

import mtlgrad_jax as mtl

RESULTS = Path(__file__).parent / "results"
SDMGRAD = {"published": {}, "rate .5": {"learning_rate": 0.5}, "exact": {"solver": mtl.solvers.min_norm}}


def sdmgrad_misses(num_draws, **options):
    """Return the median and the largest max |w − w*| of SDMGrad's weights, from equal ones."""
    weighting = mtl.typing.as_stateful(mtl.weightings.sdmgrad(**options))  # takes any extras
    rng, misses = np.random.default_rng(0), []
    update = jax.jit(lambda gram: weighting.update(gram, weighting.init(4), cross_gram=gram)[0])
    for _ in range(num_draws):
        rows = rng.standard_normal((4, 20)).astype(np.float32).astype(np.float64)
        shifted = rows + 0.3 * rows.mean(axis=0)
        share = nnls(np.vstack([shifted.T, np.ones(4)]), np.append(np.zeros(20), 1.0))[0]
        gram = mtl.jacobians.stacked.gram(jnp.asarray(rows, jnp.float32))
        misses.append(np.abs(np.asarray(update(gram)) - (share / share.sum() + 0.3 / 4) / 1.3).max())
    return float(np.median(misses)), float(max(misses))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer draws")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    stored = {}
    for name, chosen in SDMGRAD.items():
        median, worst = sdmgrad_misses(20 if options.quick else 200, **chosen)
        stored[name] = {"median": median, "worst": worst}
        print(f"{name:10} max |w - w*|: median {median:.0e}  worst {worst:.0e}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sdmgrad_iteration.json").write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
