"""Burgers' and Helmholtz' equation on small networks, chosen by the sum of losses at points of their own.

The problems of `burgers.py` and `helmholtz.py` with a tenth of the points and a fortieth of the parameters; the
solution of the second one has half as many waves, which such a network learns in the time that there is.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import burgers as full_burgers
from benchmarks import pinn
from benchmarks.does_it_help.problems import Problem

WIDTH, NUM_INTERIOR, NUM_EDGE = 24, 192, 32
WAVES = 2


def _network(seed):
    return pinn.init(jax.random.key(seed), (2, WIDTH, WIDTH, WIDTH, 1))


def _nothing(seed):
    return {"seed": np.asarray(seed)}


def _relative(values, solution):
    return (jnp.linalg.norm(values - solution) / jnp.linalg.norm(solution))[None]


def _chosen_by(losses, batches):
    """Return the score: losses at points that no seed trains on."""
    (batch,) = zip(*(array[:1] for array in batches(np.random.default_rng(10_000), 1)), strict=True)
    return lambda params, sample: losses(params, batch, sample)


def burgers():
    """Initial values, boundary values and the equation inside: three losses, one solution."""
    points, solution = full_burgers.test_grid(num_places=64, num_times=25)

    def batches(rng, n):
        start = np.stack([rng.uniform(-1, 1, (n, NUM_EDGE)), np.zeros((n, NUM_EDGE))], axis=-1)
        edge = np.stack([rng.choice([-1.0, 1.0], (n, NUM_EDGE)), rng.uniform(0, 1, (n, NUM_EDGE))], axis=-1)
        inside = rng.uniform((-1, 0), (1, 1), (n, NUM_INTERIOR, 2))
        return tuple(points.astype(np.float32) for points in (start, edge, inside))

    def losses(params, batch, sample):
        start, edge, inside = batch
        u, u_x, u_t, u_xx = pinn.derivatives(params, inside, (1.0, 0.0))
        wrong = (
            pinn.apply(params, start) + jnp.sin(jnp.pi * start[:, 0]),
            pinn.apply(params, edge),
            u_t + u * u_x - full_burgers.VISCOSITY * u_xx,
        )
        return jnp.stack([jnp.mean(each**2) for each in wrong])

    return Problem(
        "burgers", "ConFIG's problem (2408.11104), exact solution", ("initial", "boundary", "equation"), _nothing,
        _network, batches, losses, _chosen_by(losses, batches),
        lambda params, sample: _relative(pinn.apply(params, points), solution), None, 1000,
    )  # fmt: skip


def helmholtz():
    """Boundary values and the equation inside, whose gradient is by far the longer one: two losses, one solution."""
    places = jnp.linspace(-1, 1, 40)
    points = jnp.stack(jnp.meshgrid(places, places), axis=-1).reshape(-1, 2)
    exact = lambda points: jnp.sin(jnp.pi * points[:, 0]) * jnp.sin(WAVES * jnp.pi * points[:, 1])

    def batches(rng, n):
        inside, edge = rng.uniform(-1, 1, (n, NUM_INTERIOR, 2)), rng.uniform(-1, 1, (n, NUM_EDGE, 2))
        edge[:, ::2, 0] = np.where(edge[:, ::2, 0] < 0, -1, 1)
        edge[:, 1::2, 1] = np.where(edge[:, 1::2, 1] < 0, -1, 1)
        return inside.astype(np.float32), edge.astype(np.float32)

    def losses(params, batch, sample):
        inside, edge = batch
        u, _, _, laplacian = pinn.derivatives(params, inside, (1.0, 1.0))
        wrong = laplacian + u - (1 - (1 + WAVES**2) * jnp.pi**2) * exact(inside), pinn.apply(params, edge)
        return jnp.stack([jnp.mean(each**2) for each in wrong])

    return Problem(
        "helmholtz", "DCGD's problem (2409.18426) with sin πx·sin 2πy", ("equation", "boundary"), _nothing,
        _network, batches, losses, _chosen_by(losses, batches),
        lambda params, sample: _relative(pinn.apply(params, points), exact(points)), None, 1000,
    )  # fmt: skip
