"""Inner products measured on J take the weights past the precision of the Gram matrix."""

import jax.numpy as jnp
import numpy as np
import pytest
from families import excess, near_opposed

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import stacked


@pytest.mark.parametrize(
    ("num_tasks", "num_simplex", "eps", "num_passes"), [(8, 8, 3e-3, 1), (8, 8, 1e-3, 3), (8, 4, 3e-3, 1)]
)
def test_a_measurement_corrects_the_gram_matrix(num_tasks, num_simplex, eps, num_passes):
    for seed in range(3):
        rows = near_opposed(num_tasks, eps, seed).astype(np.float32)
        gram = stacked.gram(jnp.asarray(rows))
        weights = mtl.solvers.min_norm(gram, num_simplex).x
        for _ in range(num_passes):
            measured = rows @ (np.asarray(weights) @ rows)
            weights = mtl.solvers.refine(gram, weights, jnp.asarray(measured), num_simplex)
        assert excess(rows.astype(np.float64), weights, num_simplex)[0] <= 1e-5, seed


def test_nothing_to_correct_changes_nothing():
    rows = np.random.default_rng(0).standard_normal((6, 20)).astype(np.float32)
    gram = stacked.gram(jnp.asarray(rows))
    weights = mtl.solvers.min_norm(gram).x
    measured = jnp.asarray(rows @ (np.asarray(weights) @ rows))
    np.testing.assert_allclose(mtl.solvers.refine(gram, weights, measured), weights, atol=1e-6)
