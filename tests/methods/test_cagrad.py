"""CAGrad against a general optimiser in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import JACOBIANS, draw
from scipy.optimize import minimize

from mtlgrad_jax import weightings
from mtlgrad_jax.methods.cagrad import cagrad_gap
from mtlgrad_jax.solvers import max_min_gap, max_min_in_ball


def worst_gain(gram, c):
    """Return min_{α∈Δ} g_αᵀg₀ + c‖g₀‖‖g_α‖ by sequential quadratic programming."""
    num_tasks = gram.shape[0]
    along = gram.mean(axis=1)
    reach = c * np.sqrt(gram.mean())
    results = [
        minimize(
            lambda a: along @ a + reach * np.sqrt(max(a @ gram @ a, 0)),
            start,
            bounds=[(0, 1)] * num_tasks,
            constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
            options={"maxiter": 1000, "ftol": 1e-14},
        )
        for start in (np.full(num_tasks, 1 / num_tasks), *np.eye(num_tasks))
    ]
    return min(result.fun for result in results)


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("jacobian", ["gaussian", "correlated", "opposed", "simplex_points"])
def test_no_direction_in_the_ball_serves_the_worst_task_better(jacobian, c):
    for num_tasks in (2, 3, 6):
        task_grads = draw(jacobian, num_tasks)
        weights = np.asarray(weightings.cagrad(jnp.asarray(task_grads @ task_grads.T), c=c), np.float64)
        exact = task_grads.astype(np.float64)
        gram = exact @ exact.T
        average = exact.mean(axis=0)
        update = weights @ exact
        assert np.linalg.norm(update - average) <= c * np.linalg.norm(average) * (1 + 1e-5)
        assert (exact @ update).min() >= worst_gain(gram, c) - 2e-6 * gram.max(), num_tasks


@pytest.mark.parametrize("jacobian", JACOBIANS)
def test_the_certificate_is_small_everywhere(jacobian):
    for num_tasks in (1, 2, 8):
        task_grads = draw(jacobian, num_tasks)
        center = jnp.full(num_tasks, 1 / num_tasks)
        for radius in (0.0, 0.4, 1.5):
            gram = jnp.asarray(task_grads @ task_grads.T)
            solution = max_min_in_ball(gram, center, radius)
            # Near opposition the shortest direction is known to √ε only; at a stationary point d = 0 is the
            # difference of vectors as long as Σx, which are known to roundings.
            rounding = float(jnp.finfo(gram.dtype).eps * solution.x.sum())
            limit = {"near_opposed": 2e-4, "stationary": max(1e-6, rounding)}.get(jacobian, 1e-6)
            assert solution.gap <= limit, (num_tasks, radius, solution)


def test_the_certificate_tells_a_wrong_answer():
    task_grads = draw("gaussian", 3)
    gram = jnp.asarray(task_grads @ task_grads.T)
    center = jnp.full(3, 1 / 3)
    solution = max_min_in_ball(gram, center, 0.4)
    assert max_min_gap(gram, center, 0.4, 0.5 * solution.x) > 1e-2
    assert max_min_gap(gram, center, 0.4, 2 * solution.x) > 1e-2


@pytest.mark.parametrize("rescale", ["none", "1+c", "1+c^2"])
def test_rescaled_updates_have_the_same_direction_and_certificate(rescale):
    task_grads = draw("opposed", 4)
    gram = jnp.asarray(task_grads @ task_grads.T)
    factor = {"none": 1.0, "1+c": 1.4, "1+c^2": 1.16}[rescale]
    weights = weightings.cagrad(gram, c=0.4, rescale=rescale)
    np.testing.assert_allclose(weights * factor, weightings.cagrad(gram, c=0.4), rtol=1e-6)
    assert cagrad_gap(gram, weights, c=0.4, rescale=rescale) < 1e-6


def test_radius_zero_is_the_mean_and_a_radius_may_be_traced():
    task_grads = draw("gaussian", 3)
    gram = jnp.asarray(task_grads @ task_grads.T)
    np.testing.assert_allclose(jax.jit(lambda c: weightings.cagrad(gram, c=c))(0.0), 1 / 3, rtol=1e-6)


def test_unknown_rescale_is_refused():
    with pytest.raises(ValueError, match="rescale"):
        weightings.cagrad(jnp.eye(2), rescale="c")
