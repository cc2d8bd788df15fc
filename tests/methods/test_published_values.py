"""Values printed in papers and documentations for J = [[−4, 1, 1], [6, 1, 1]]."""

import jax.numpy as jnp
import numpy as np
import pytest

from mtlgrad_jax import weightings

TASK_GRADS = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], np.float32)

UPDATES = {
    "mean": (weightings.mean, [1, 1, 1]),
    "sum": (weightings.sum, [2, 2, 2]),
    "mgda": (weightings.mgda, [0, 1, 1]),
    "dualproj": (weightings.dualproj, [5 / 9, 10 / 9, 10 / 9]),
    "upgrad": (weightings.upgrad, [50 / 171, 325 / 171, 325 / 171]),
    "cagrad": (lambda gram: weightings.cagrad(gram, c=0.5), [0.1835, 1.2041, 1.2041]),
    "nash_mtl": (weightings.nash_mtl, [0.0542, 0.7061, 0.7061]),
    "imtl_g": (weightings.imtl_g, [0.0767, 1, 1]),
    "aligned_mtl": (weightings.aligned_mtl, [0.2133, 0.9673, 0.9673]),
    "conflict_free": (weightings.conflict_free, [0.1588, 2.0706, 2.0706]),
    "fairgrad": (weightings.fairgrad, [0.0766, 0.9985, 0.9985]),
}
WEIGHTS = {
    "mgda": [0.6, 0.4],
    "upgrad": [10 / 9, 15 / 19],
    "cagrad": [0.7041, 0.5],
    "imtl_g": [0.5923, 0.4077],
    "aligned_mtl": [0.5591, 0.4083],
    "fairgrad": [0.5915, 0.4071],
}


@pytest.mark.parametrize("name", UPDATES)
def test_updates_are_those_published(name):
    weighting, expected = UPDATES[name]
    weights = np.asarray(weighting(jnp.asarray(TASK_GRADS @ TASK_GRADS.T)))
    np.testing.assert_allclose(weights @ TASK_GRADS, expected, atol=1e-4)
    if name in WEIGHTS:
        np.testing.assert_allclose(weights, WEIGHTS[name], atol=1e-4)


def test_nash_of_two_tasks_in_closed_form():
    """wᵢ = 1/(‖gᵢ‖·√(1 + cos))."""
    gram = TASK_GRADS.astype(np.float64) @ TASK_GRADS.T
    lengths = np.sqrt(np.diag(gram))
    expected = 1 / (lengths * np.sqrt(1 + gram[0, 1] / np.prod(lengths)))
    weights = weightings.nash_mtl(jnp.asarray(gram, jnp.float32), max_norm=None)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
