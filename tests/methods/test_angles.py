"""Methods defined by angles and eigenvalues: IMTL-G, ConFIG, Aligned-MTL, DCGD."""

import jax.numpy as jnp
import numpy as np
import pytest
from cases import draw

from mtlgrad_jax import weightings


def update_of(weighting, task_grads):
    weights = np.asarray(weighting(jnp.asarray(task_grads @ task_grads.T)), np.float64)
    return weights, weights @ task_grads.astype(np.float64)


def cosines(task_grads, update):
    return task_grads @ update / np.linalg.norm(task_grads, axis=1) / np.linalg.norm(update)


@pytest.mark.parametrize("name", ["imtl_g", "conflict_free"])
@pytest.mark.parametrize("jacobian", ["gaussian", "correlated", "opposed", "duplicated", "spread_4", "parallel"])
def test_the_angle_with_every_gradient_is_the_same(name, jacobian):
    for num_tasks in (1, 2, 3, 8):
        task_grads = draw(jacobian, num_tasks)
        weights, update = update_of(getattr(weightings, name), task_grads)
        angles = cosines(task_grads, update)
        assert np.ptp(angles) <= 1e-4 * np.abs(angles).max(), (num_tasks, angles)
        if name == "imtl_g":
            np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
        else:
            lengths = np.linalg.norm(task_grads, axis=1)
            np.testing.assert_allclose(np.linalg.norm(update), (angles * lengths).sum(), rtol=1e-4)


def test_parallel_gradients_get_the_limit_of_nearly_parallel_ones():
    row = np.array([1.0, 2.0], np.float32)
    weights, _ = update_of(weightings.imtl_g, np.stack([row, 2 * row]))
    np.testing.assert_allclose(weights, [2 / 3, 1 / 3], rtol=1e-5)


@pytest.mark.parametrize("name", ["imtl_g", "conflict_free"])
def test_exact_opposition_has_no_update(name):
    weights, update = update_of(getattr(weightings, name), draw("exactly_opposed", 2))
    assert np.all(np.isfinite(weights)) and np.linalg.norm(update) <= 1e-6


@pytest.mark.parametrize("scale", ["min", "median", "rmse"])
def test_aligned_gradients_are_orthogonal_and_equally_long(scale):
    """w = Bp for every p, and the rows of BJ, those of an orthogonal matrix times √λ_R."""
    for num_tasks in (2, 3, 6):
        task_grads = draw("opposed", num_tasks)
        gram = jnp.asarray(task_grads @ task_grads.T)
        columns = [weightings.aligned_mtl(gram, preference=row, scale=scale) for row in np.eye(num_tasks)]
        values = np.linalg.svd(np.stack(columns, axis=1).astype(np.float64) @ task_grads, compute_uv=False)
        singular = np.sort(np.linalg.svd(task_grads.astype(np.float64), compute_uv=False))
        expected = {
            "min": singular[0],
            "median": singular[(num_tasks - 1) // 2],
            "rmse": np.sqrt(np.mean(singular**2)),
        }[scale]
        np.testing.assert_allclose(values, expected, rtol=1e-4)


def test_aligned_mtl_does_not_depend_on_the_order_of_tasks():
    task_grads = draw("gaussian", 6)
    order = np.random.default_rng(0).permutation(6)
    weights, _ = update_of(weightings.aligned_mtl, task_grads)
    np.testing.assert_allclose(update_of(weightings.aligned_mtl, task_grads[order])[0], weights[order], rtol=1e-4)


@pytest.mark.parametrize("jacobian", ["gaussian", "correlated", "opposed", "spread_4"])
def test_dcgd_follows_its_formulas(jacobian):
    for seed in range(5):
        task_grads = draw(jacobian, 2, seed)
        first, second = exact = task_grads.astype(np.float64)
        total = first + second
        units = exact / np.linalg.norm(exact, axis=1, keepdims=True)
        center = units.sum(axis=0)
        parts = [total - (total @ unit) * unit for unit in units]
        conflicts = exact @ total < 0
        expected = {
            "center": center * (center @ total) / (center @ center),
            "projection": parts[int(np.argmax(conflicts))] if conflicts.any() else total,
            "average": np.mean(parts, axis=0) if conflicts.any() else total,
        }
        for variant, vector in expected.items():
            weights = np.asarray(weightings.dcgd(jnp.asarray(task_grads @ task_grads.T), variant=variant), np.float64)
            error = np.linalg.norm(weights @ exact - vector)
            assert error <= 1e-4 * np.linalg.norm(vector), (variant, seed)


def test_dcgd_is_for_two_tasks():
    with pytest.raises(ValueError, match="two tasks"):
        weightings.dcgd(jnp.eye(3))
    with pytest.raises(ValueError, match="variant"):
        weightings.dcgd(jnp.eye(2), variant="middle")
