"""What physics-informed networks are trained with: compositions of `benchmarks.pinn`, against their definitions."""

import sys
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import mtlgrad_jax as mtl

SIZES = (2, 6, 1)
pytestmark = pytest.mark.standard_promotion


@pytest.fixture
def pinn(monkeypatch):
    """Import the benchmarks from wherever pytest was started."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    yield import_module("benchmarks.pinn")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


def problem(pinn):
    """Return parameters, residuals at a point, and the points of u = 0 on an edge and u_x + u_yy = 1 inside."""
    params, rng = pinn.init(jax.random.key(0), SIZES, bias=0.1), np.random.default_rng(0)
    edge, inside = (jnp.asarray(rng.uniform(-1, 1, (size, 2)), jnp.float32) for size in (5, 9))

    def at_the_edge(params, point):
        return pinn.apply(params, point[None])[0]

    def inside_of_it(params, point):
        _, slope, _, curvature = pinn.derivatives(params, point[None], (0.0, 1.0))
        return (slope + curvature)[0] - 1

    return params, (at_the_edge, inside_of_it), (edge, inside)


def losses_of(residuals, points):
    terms = list(zip(residuals, points, strict=True))
    return lambda params: jnp.stack([jnp.mean(jax.vmap(of, (None, 0))(params, at) ** 2) for of, at in terms])


def test_traces_of_the_kernel_are_squared_lengths_of_the_rows_at_every_point(pinn):
    params, residuals, points = problem(pinn)
    actual = jax.jit(lambda params: pinn.kernel_traces(residuals, params, points))(params)
    for trace, residual, at in zip(actual, residuals, points, strict=True):
        rows = jax.vmap(jax.grad(residual), (None, 0))(params, at)
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(rows))
        np.testing.assert_allclose(trace, squares / len(at), rtol=1e-4)
    np.testing.assert_allclose(pinn.over_the_mean(jnp.array([1.0, 3.0, 0.0])), [4 / 3, 4 / 9, 1], rtol=1e-6)


def test_gradient_norms_are_averaged_each_time_they_are_computed(pinn):
    """As jaxpi does: .9 of the weights before, one at first, and in between nothing changes."""
    tx = mtl.aggregate(pinn.averaged(pinn.equal_lengths, every=2), 2)
    lengths = np.array([[1.0, 4.0], [9.0, 9.0], [2.0, 1.0], [9.0, 9.0]])
    state, expected = tx.init(jnp.zeros(2)), np.ones(2)
    for step, pair in enumerate(lengths):
        expected = expected if step % 2 else 0.9 * expected + 0.1 * pair.mean() / pair
        _, state = tx.update(jnp.diag(jnp.asarray(pair, jnp.float32)), state)
        np.testing.assert_allclose(state.weights, expected, rtol=1e-6)


def test_annealing_weighs_by_the_largest_entry_over_the_mean(pinn):
    rows = {"w": jnp.array([[[1.0, -3.0]], [[-8.0, 2.0]]]), "b": jnp.array([[2.0], [0.5]])}
    tx = mtl.aggregate(pinn.averaged(pinn.handed), 2)
    _, state = tx.update(rows, tx.init(jax.tree.map(lambda leaf: leaf[0], rows)), fresh=pinn.annealing(rows, 1))
    np.testing.assert_allclose(state.weights, [0.9 + 0.1 * 8 / 2, 1], rtol=1e-6)


def test_lbfgs_finishes_on_the_weighted_sum_and_takes_its_value(pinn):
    """Judged by SciPy's on the same function; a value that belongs to another direction misleads the line search."""
    params, residuals, points = problem(pinn)
    losses_fn = losses_of(residuals, points)
    losses, rows = mtl.task_value_and_grad(losses_fn)(params)
    tx = mtl.aggregate(pinn.equal_lengths, 2)
    _, state = tx.update(rows, tx.init(params), params)
    done, values = jax.jit(lambda params: pinn.finish(losses_fn, params, state.weights, num_steps=40))(params)
    end = float(losses_fn(done) @ state.weights)
    np.testing.assert_allclose(values[0], losses @ state.weights, rtol=1e-6)
    assert np.all(np.diff(values) <= 1e-6 * values[0]) and end < 0.05 * values[0]

    flat, unravel = jax.flatten_util.ravel_pytree(params)
    weighted = jax.jit(jax.value_and_grad(lambda flat: losses_fn(unravel(flat)) @ state.weights))
    theirs = minimize(
        lambda flat: [np.asarray(part, np.float64) for part in weighted(jnp.asarray(flat, jnp.float32))],
        np.asarray(flat, np.float64),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 40},
    )
    assert end < 3 * theirs.fun + 1e-3 * values[0]
