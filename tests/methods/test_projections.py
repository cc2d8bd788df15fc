"""UPGrad and DualProj against non-negative least squares on J, which needs no trust in G."""

import jax.numpy as jnp
import numpy as np
import pytest
from cases import draw
from scipy.optimize import nnls

from mtlgrad_jax import weightings
from mtlgrad_jax.methods.dualproj import dualproj_gap

DRAWS = ("gaussian", "correlated", "opposed", "duplicated", "spread_4")


def project(task_grads, vector):
    """Return the vector of {d : Jd ≥ 0} nearest to `vector`."""
    return vector + task_grads.T @ nnls(task_grads.T, -vector)[0]


@pytest.mark.parametrize("size", [1.0, 1e-6])
@pytest.mark.parametrize("jacobian", DRAWS)
def test_upgrad_adds_projected_gradients(jacobian, size):
    for num_tasks in (2, 3, 8):
        task_grads = draw(jacobian, num_tasks) * np.float32(size)
        preference = np.random.default_rng(0).dirichlet(np.ones(num_tasks)).astype(np.float32)
        weights = weightings.upgrad(jnp.asarray(task_grads @ task_grads.T), preference=preference)
        exact = task_grads.astype(np.float64)
        expected = sum(p * project(exact, row) for p, row in zip(preference.astype(np.float64), exact, strict=True))
        error = np.linalg.norm(np.asarray(weights, np.float64) @ exact - expected)
        assert error <= 2e-5 * np.linalg.norm(expected), (num_tasks, error)


@pytest.mark.parametrize("size", [1.0, 1e-6])
@pytest.mark.parametrize("jacobian", DRAWS)
def test_dualproj_is_the_projected_average(jacobian, size):
    for num_tasks in (2, 3, 8):
        task_grads = draw(jacobian, num_tasks) * np.float32(size)
        gram = jnp.asarray(task_grads @ task_grads.T)
        weights = weightings.dualproj(gram)
        exact = task_grads.astype(np.float64)
        error = np.linalg.norm(np.asarray(weights, np.float64) @ exact - project(exact, exact.mean(axis=0)))
        assert error <= 2e-5 * np.linalg.norm(exact.mean(axis=0)), (num_tasks, error)
        assert dualproj_gap(gram, weights) < 1e-5
        assert num_tasks == 2 or dualproj_gap(gram, weights.at[0].add(0.1)) > 1e-3


def test_the_projection_of_a_small_task_is_not_lost():
    """Where published code adds an absolute constant to G, the answer is the mean."""
    task_grads = np.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]) * np.array([[1e-6], [1.0]])
    weights = np.asarray(weightings.upgrad(jnp.asarray(task_grads @ task_grads.T, jnp.float32)), np.float64)
    assert weights @ task_grads @ task_grads[0] >= -1e-12
