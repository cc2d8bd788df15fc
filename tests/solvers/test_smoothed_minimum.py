"""The smoothed minimum: an equation, a limit, and an iteration that oscillates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import JACOBIANS, draw
from scipy.special import softmax

import mtlgrad_jax as mtl
from mtlgrad_jax import solvers


def gram_of(task_grads):
    return jnp.asarray(task_grads @ task_grads.T, jnp.float32)


def gaussian(num_tasks, seed=0):
    return np.random.default_rng(seed).standard_normal((num_tasks, num_tasks + 2))


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 30.0, 1000.0, 1e4])
@pytest.mark.parametrize("num_tasks", [1, 2, 5, 40])
def test_newton_solves_the_equation_on_vectors(num_tasks, sharpness):
    """u = Σ softmax(−λ⟨gᵢ,u⟩) gᵢ, judged in float64."""
    task_grads = gaussian(num_tasks)
    solution = solvers.smoothed_minimum(gram_of(task_grads), sharpness=sharpness)
    longest = np.max(np.linalg.norm(task_grads, axis=1))
    u = np.asarray(solution.x, np.float64) @ task_grads
    response = softmax(-sharpness / longest**2 * (task_grads @ u)) @ task_grads
    assert np.linalg.norm(u - response) <= 1e-6 * (10 + sharpness) * longest
    assert solution.num_steps < 40


@pytest.mark.parametrize("seed", range(3))
def test_the_gap_is_what_smoothing_costs(seed):
    """‖u‖² − min⟨gᵢ,u⟩ ≤ log(T)/λ, and the exact solver is the limit."""
    gram = gram_of(gaussian(8, seed))
    gaps = [float(solvers.smoothed_minimum(gram, sharpness=s).gap) for s in (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)]
    for gap, sharpness in zip(gaps, (1.0, 10.0, 100.0, 1e3, 1e4, 1e5), strict=True):
        assert gap <= np.log(8) / sharpness + 1e-6
    assert np.all(np.diff(gaps) < 0)
    exact = solvers.min_norm(gram).x
    np.testing.assert_allclose(solvers.smoothed_minimum(gram, sharpness=1e5).x, exact, atol=1e-3)


def test_the_plain_iteration_oscillates_where_newton_does_not():
    gram = gram_of(gaussian(4))
    odd, even = (solvers.smoothed_minimum(gram, iteration="plain", max_steps=k).x for k in (199, 200))
    assert np.max(np.abs(odd - even)) > 0.5
    small = [solvers.smoothed_minimum(gram, sharpness=0.3, iteration=i).x for i in ("plain", "newton")]
    np.testing.assert_allclose(*small, atol=1e-6)  # a contraction at small sharpness


def test_averaging_calms_the_oscillation():
    gram = gram_of(gaussian(4))
    plain = solvers.smoothed_minimum(gram, iteration="plain", max_steps=2000)
    averaged = solvers.smoothed_minimum(gram, iteration="averaged", max_steps=2000)
    assert averaged.gap < 0.01 < plain.gap


def test_the_averaged_limit_is_frank_wolfe_iterate_by_iterate():
    task_grads = np.random.default_rng(3).integers(-8, 9, (5, 7)).astype(float)
    gram = gram_of(task_grads)
    for k in (1, 2, 3, 10, 57):
        limit = solvers.smoothed_minimum(gram, sharpness=jnp.inf, iteration="averaged", max_steps=k)
        np.testing.assert_allclose(limit.x, solvers.frank_wolfe(gram, step="1/(k+1)", max_steps=k).x, atol=1e-6)


@pytest.mark.parametrize("sharpness", [1e3, np.inf])
@pytest.mark.parametrize("jacobian", JACOBIANS)
def test_it_keeps_its_promise_on_nasty_jacobians(jacobian, sharpness):
    for num_tasks in (1, 2, 8):
        rows = jnp.asarray(draw(jacobian, num_tasks))
        gram, _ = mtl.jacobians.stacked.scaled_gram(rows)
        solution = solvers.smoothed_minimum(gram, sharpness=sharpness)
        np.testing.assert_allclose(jnp.sum(solution.x), 1, rtol=1e-5)
        assert np.all(np.asarray(solution.x) >= 0)
        reached = min(sharpness, 1 / (8 * num_tasks * np.finfo(np.float32).eps))
        assert solution.gap <= np.log(num_tasks) / reached + 2e-5


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_units_do_not_matter(scale):
    gram = gram_of(gaussian(4))
    np.testing.assert_allclose(
        solvers.smoothed_minimum(gram * jnp.float32(scale)).x, solvers.smoothed_minimum(gram).x, atol=1e-5
    )


def test_it_is_a_solver_of_mgda_under_jit_and_vmap():
    grams = jnp.stack([gram_of(gaussian(3, seed)) for seed in range(4)])
    weigh = jax.jit(jax.vmap(lambda gram: mtl.weightings.mgda(gram, solver=solvers.smoothed_minimum)))
    exact = jax.vmap(mtl.weightings.mgda)(grams)
    np.testing.assert_allclose(weigh(grams), exact, atol=0.02)


@pytest.mark.parametrize("name", ["smoothed_minimum", "softmax_descent", "greedy_coordinate", "frank_wolfe"])
def test_the_iterations_run_inside_shard_map(name):
    spec = jax.sharding.PartitionSpec("device")
    mesh = jax.make_mesh((1,), ("device",))
    gram = gram_of(gaussian(3))
    grams = jax.device_put(gram[None], jax.NamedSharding(mesh, spec))
    solve = getattr(solvers, name)
    inside = jax.shard_map(lambda grams: solve(grams[0]).x[None], mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(jax.jit(inside)(grams)[0], solve(gram).x, atol=1e-5)


def test_input_that_is_not_finite():
    solution = solvers.smoothed_minimum(jnp.full((3, 3), jnp.nan))
    assert np.all(np.isnan(solution.x))
    assert np.isinf(solution.gap)


@pytest.mark.parametrize("kwargs", [{"num_simplex": 1}, {"iteration": "picard"}])
def test_bad_input_is_explained(kwargs):
    with pytest.raises(ValueError, match="smoothed_minimum solves|expected iteration"):
        solvers.smoothed_minimum(jnp.eye(3), **kwargs)
