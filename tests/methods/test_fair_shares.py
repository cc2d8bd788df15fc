"""Nash-MTL and FairGrad against their own equations, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import draw

from mtlgrad_jax import weightings
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.solvers import alpha_fair, fairness_gap

DRAWS = ("gaussian", "correlated", "opposed", "duplicated", "spread_4", "parallel")
UNSOLVABLE = ("stationary", "exactly_opposed")


def residual(task_grads, weights, alpha):
    exact = task_grads.astype(np.float64)
    weights = np.asarray(weights, np.float64)
    return np.abs(weights ** (1 / alpha) * (exact @ (weights @ exact)) - 1).max()


@pytest.mark.parametrize("jacobian", DRAWS)
def test_nash_solves_its_equation(jacobian):
    for num_tasks in (1, 2, 3, 8):
        task_grads = draw(jacobian, num_tasks)
        weights = weightings.nash_mtl(jnp.asarray(task_grads @ task_grads.T), max_norm=None)
        assert residual(task_grads, weights, 1.0) <= 2e-5, num_tasks
        np.testing.assert_allclose(np.linalg.norm(np.asarray(weights) @ task_grads), num_tasks**0.5, rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("jacobian", DRAWS)
def test_fairgrad_solves_its_equation(jacobian, alpha):
    for num_tasks in (1, 2, 3, 8):
        task_grads = draw(jacobian, num_tasks)
        solution = alpha_fair(jnp.asarray(task_grads @ task_grads.T), alpha=alpha)
        assert solution.gap <= 2e-5, (num_tasks, solution)
        assert residual(task_grads, solution.x, alpha) <= 1e-4, num_tasks


def test_nash_is_no_longer_than_asked_and_indifferent_to_units():
    task_grads = draw("opposed", 5)
    units = np.array([[1e-3], [1.0], [10.0], [1e4], [1.0]], np.float32)
    update = {}
    for scale in (np.float32(1.0), units):
        rows = task_grads * scale
        weights = weightings.nash_mtl(jnp.asarray(rows @ rows.T), max_norm=0.5)
        update[np.size(scale)] = np.asarray(weights) @ rows
    np.testing.assert_allclose(update[1], update[5], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(update[1]), 0.5, rtol=1e-5)


@pytest.mark.parametrize("jacobian", UNSOLVABLE)
def test_without_a_common_direction_the_update_is_zero_and_the_certificate_says_so(jacobian):
    for num_tasks in (2, 3, 8):
        task_grads = draw(jacobian, num_tasks)
        gram = jnp.asarray(task_grads @ task_grads.T)
        solution = alpha_fair(gram)
        assert not np.any(solution.x)
        assert np.isinf(solution.gap) and np.isinf(fairness_gap(gram, solution.x))


def test_zero_gradients_are_left_out():
    task_grads = draw("gaussian", 3)
    padded = np.concatenate([task_grads, np.zeros_like(task_grads[:1])])
    alone = weightings.nash_mtl(jnp.asarray(task_grads @ task_grads.T))
    np.testing.assert_allclose(weightings.nash_mtl(jnp.asarray(padded @ padded.T)), [*alone, 0], rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_weights_take_the_scale_that_was_removed(alpha):
    """1e±30 leaves float32 when squared; the Gram matrix arrives with a power of two taken out."""
    task_grads = draw("gaussian", 3)
    expected = np.asarray(alpha_fair(jnp.asarray(task_grads @ task_grads.T), alpha=alpha).x, np.float64)
    for power in (-90, 90):
        gram, log2_scale = stacked.scaled_gram(jnp.asarray(task_grads * np.float32(2.0**power)))
        # Keep the result inside float32: undo most of the power by hand.
        kept = log2_scale - power
        weights = alpha_fair(gram, alpha=alpha, log2_scale=kept).x
        np.testing.assert_allclose(weights, expected, rtol=1e-4)


def test_certificate_sees_unequal_shares():
    assert fairness_gap(jnp.eye(2), jnp.array([1.0, 1.0])) == 0
    assert fairness_gap(jnp.eye(2), jnp.array([1.0, 0.9])) > 0.1
    assert fairness_gap(jnp.zeros((2, 2)), jnp.zeros(2)) == 0


def test_alpha_may_be_traced_and_must_be_positive():
    gram = jnp.asarray([[18.0, -22.0], [-22.0, 38.0]])
    np.testing.assert_allclose(
        jax.jit(lambda alpha: weightings.fairgrad(gram, alpha=alpha))(1.0), weightings.fairgrad(gram), rtol=1e-6
    )
    with pytest.raises(ValueError, match="positive"):
        weightings.fairgrad(gram, alpha=0.0)
