"""Methods with a primary task: gates, projections, the dynamic barrier, and guaranteed progress."""

import jax.numpy as jnp
import numpy as np
import pytest
from cases import draw
from scipy.optimize import nnls

from mtlgrad_jax import weightings


def gram_of(task_grads):
    return jnp.asarray(task_grads @ task_grads.T)


@pytest.mark.parametrize("gate", ["weighted", "unweighted"])
def test_gates_follow_the_cosine(gate):
    task_grads = draw("gaussian", 6)
    lengths = np.linalg.norm(task_grads, axis=1)
    cosines = np.maximum(task_grads @ task_grads[0] / lengths / lengths[0], 0)
    expected = 0.3 * (cosines if gate == "weighted" else cosines > 0)
    expected[0] = 1
    weights = weightings.cosine_gate(gram_of(task_grads), gate=gate, strength=0.3)
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_gates_and_projections_refuse_unknown_options():
    with pytest.raises(ValueError, match="gate"):
        weightings.cosine_gate(jnp.eye(2), gate="half")


@pytest.mark.parametrize("jacobian", ["gaussian", "opposed", "spread_4", "zero_row"])
def test_projected_auxiliaries_never_slow_the_primary(jacobian):
    task_grads = draw(jacobian, 4).astype(np.float64)
    primary, *auxiliaries = task_grads
    kept = [h - min(h @ primary, 0) / (primary @ primary) * primary for h in auxiliaries]
    weights = weightings.aux_projection(gram_of(task_grads.astype(np.float32)), strength=0.5)
    update = np.asarray(weights, np.float64) @ task_grads
    np.testing.assert_allclose(update, primary + 0.5 * sum(kept), rtol=1e-4, atol=1e-5)
    assert update @ primary >= primary @ primary * (1 - 1e-5)


@pytest.mark.parametrize("jacobian", ["gaussian", "opposed", "correlated"])
def test_the_barrier_is_the_nearest_direction_with_the_primarys_descent(jacobian):
    task_grads = draw(jacobian, 3).astype(np.float64)
    primary, target = task_grads[0], 0.7 * task_grads[1:].sum(axis=0)
    lack = max(primary @ primary - primary @ target, 0)
    weights = weightings.dynamic_barrier(gram_of(task_grads.astype(np.float32)), strength=0.7)
    expected = target + lack / (primary @ primary) * primary
    np.testing.assert_allclose(np.asarray(weights, np.float64) @ task_grads, expected, rtol=1e-4, atol=1e-5)


def expected_pcd(task_grads, lengths, tau):
    """Project g̃₀ onto {d : ⟨g̃ⱼ,d⟩ ≥ τ‖g̃ⱼ‖²} by least-distance programming on J (Lawson & Hanson 23.27)."""
    unit = task_grads / lengths[:, None]
    bounds = tau * (unit[1:] ** 2).sum(axis=1) - unit[1:] @ unit[0]
    system = np.concatenate([unit[1:].T, bounds[None]])
    target = np.eye(system.shape[0])[-1]
    residual = system @ nnls(system, target)[0] - target
    direction = unit[0] - residual[:-1] / residual[-1]
    return np.linalg.norm(task_grads[0]) * direction / np.linalg.norm(direction)


@pytest.mark.parametrize("tau", [0.0, 0.02, 0.5])
def test_pcd_projects_normalised_gradients_step_after_step(tau):
    weighting = weightings.pcd(tau=tau, beta=0.9)
    state = weighting.init(4)
    mean_square = np.zeros(4)
    for step in range(1, 6):
        task_grads = draw("opposed", 4, seed=step) * np.array([[1.0], [1e-3], [1.0], [50.0]], np.float32)
        weights, state = weighting.update(gram_of(task_grads), state)
        exact = task_grads.astype(np.float64)
        mean_square = 0.9 * mean_square + 0.1 * (exact**2).sum(axis=1)
        expected = expected_pcd(exact, np.sqrt(mean_square / (1 - 0.9**step)), tau)
        error = np.linalg.norm(np.asarray(weights, np.float64) @ exact - expected)
        assert error <= 1e-4 * np.linalg.norm(expected), (step, error)
        assert state.gap <= 1e-5 and np.all(state.num_steps == step)


def test_pcd_says_when_no_direction_keeps_the_guarantee():
    task_grads = np.array([[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], np.float32)
    weighting = weightings.pcd()
    weights, state = weighting.update(gram_of(task_grads), weighting.init(3))
    np.testing.assert_allclose(weights, [1, 0, 0], rtol=1e-6)
    assert np.isinf(state.gap)


def test_pcd_scale_of_the_gram_matrix_does_not_enter():
    task_grads = draw("opposed", 3)
    weighting = weightings.pcd(tau=0.3)
    plain, state = weighting.update(gram_of(task_grads), weighting.init(3))
    halved, other = weighting.update(gram_of(task_grads / 8), weighting.init(3), log2_scale=jnp.int32(3))
    np.testing.assert_allclose(halved, plain, rtol=1e-6)
    np.testing.assert_allclose(other.rms, state.rms, rtol=1e-6)


def test_pcd_takes_one_share_per_auxiliary():
    weighting = weightings.pcd(tau=(0.1, 0.9))
    weights, _ = weighting.update(jnp.eye(3), weighting.init(3))
    np.testing.assert_allclose(weights[1:] / weights[0], [0.1, 0.9], rtol=1e-5)
    with pytest.raises(ValueError, match="tau"):
        weighting.update(jnp.eye(2), weighting.init(2))


def test_a_zero_primary_stops_pcd():
    task_grads = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
    weighting = weightings.pcd()
    weights, _ = weighting.update(gram_of(task_grads), weighting.init(2))
    assert not np.any(np.asarray(weights) @ task_grads)


def test_pcd_hurts_no_auxiliary_where_gradients_are_nearly_dependent():
    """Kahan's matrix of sixteen tasks, where the multipliers are large and a direction exists."""
    rows = np.sin(1.2) ** np.arange(16)[:, None] * (np.eye(16) - np.cos(1.2) * np.triu(np.ones((16, 16)), 1))
    weighting = weightings.pcd()
    weights, _ = weighting.update(gram_of(rows.astype(np.float32)), weighting.init(16))
    update = np.asarray(weights, np.float64) @ rows
    assert np.all(rows[1:] @ update >= -1e-3 * np.linalg.norm(rows[1:], axis=1) * np.linalg.norm(update))
