"""PCGrad against its published value and against projections of the rows themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import draw

from mtlgrad_jax import weightings
from mtlgrad_jax.methods.pcgrad import random_orders

pcgrad = jax.jit(weightings.pcgrad)


def project_rows(task_grads, orders):
    """The paper's algorithm 1 on the gradients, in float64."""
    total = np.zeros(task_grads.shape[1])
    for i, gradient in enumerate(task_grads):
        projected = gradient.copy()
        for j in orders[i]:
            other = task_grads[j]
            if j != i and projected @ other < 0:
                projected -= (projected @ other) / (other @ other) * other
        total += projected
    return total


def test_published_value():
    task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    weights = pcgrad(task_grads @ task_grads.T, jax.random.key(0))
    np.testing.assert_allclose(weights, [2.2222, 1.5789], atol=1e-4)
    np.testing.assert_allclose(weights @ task_grads, [0.5848, 3.8012, 3.8012], atol=1e-4)
    np.testing.assert_allclose(weights @ task_grads, [100 / 171, 650 / 171, 650 / 171], atol=3e-6)


@pytest.mark.parametrize("jacobian", ["gaussian", "opposed", "spread_4", "zero_row", "low_rank"])
def test_agrees_with_projections_of_the_rows(jacobian):
    for seed in range(5):
        task_grads = draw(jacobian, 6, seed)
        key = jax.random.key(seed)
        expected = project_rows(task_grads.astype(np.float64), np.asarray(random_orders(key, 6)))
        actual = np.asarray(pcgrad(jnp.asarray(task_grads @ task_grads.T), key), np.float64) @ task_grads
        np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max())


def test_every_task_visits_the_others_in_its_own_order():
    orders = np.asarray(random_orders(jax.random.key(0), 8))
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert len({tuple(order) for order in orders}) > 4


def test_the_order_matters():
    task_grads = draw("opposed", 6)
    gram = jnp.asarray(task_grads @ task_grads.T)
    first, second = (pcgrad(gram, jax.random.key(seed)) for seed in (0, 1))
    assert np.abs(first - second).max() > 1e-2
