"""Descent on logits: any Optax optimiser, and a default that needs no tuning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import JACOBIANS, draw

import mtlgrad_jax as mtl
from mtlgrad_jax import solvers


def gram_of(task_grads):
    return jnp.asarray(task_grads @ task_grads.T, jnp.float32)


def gaussian(num_tasks, seed=0):
    return np.random.default_rng(seed).standard_normal((num_tasks, num_tasks + 2))


@pytest.mark.parametrize("num_tasks", [2, 40])
def test_the_default_comes_close_without_tuning(num_tasks):
    for seed in range(3):
        gram = gram_of(gaussian(num_tasks, seed))
        solution = solvers.softmax_descent(gram)
        exact = solvers.min_norm(gram).x
        assert solution.gap < 3e-3
        assert solution.x @ gram @ solution.x <= 1.005 * (exact @ gram @ exact)


@pytest.mark.parametrize("num_simplex", [1, 3])
def test_auxiliaries_are_exponentials(num_simplex):
    for seed in range(3):
        gram = gram_of(gaussian(6, seed))
        solution = solvers.softmax_descent(gram, num_simplex=num_simplex)
        np.testing.assert_allclose(jnp.sum(solution.x[:num_simplex]), 1, rtol=1e-5)
        assert np.all(solution.x > 0)
        assert solution.gap < 3e-3


@pytest.mark.parametrize("jacobian", JACOBIANS)
def test_it_is_feasible_and_improves_on_nasty_jacobians(jacobian):
    for num_tasks in (1, 8):
        gram, _ = mtl.jacobians.stacked.scaled_gram(jnp.asarray(draw(jacobian, num_tasks)))
        solution = solvers.softmax_descent(gram)
        start = solvers.softmax_descent(gram, max_steps=0)
        np.testing.assert_allclose(jnp.sum(solution.x), 1, rtol=1e-5)
        assert np.all(np.asarray(solution.x) >= 0)
        assert solution.gap <= jnp.maximum(start.gap, 1e-4)
        assert solution.gap < 0.01


def test_its_own_optimizer_may_be_any():
    gram = gram_of(gaussian(3))
    for optimizer in (optax.sgd(1.0, momentum=0.9), optax.adamw(0.1, weight_decay=0.0), optax.rmsprop(0.01)):
        solution = solvers.softmax_descent(gram, optimizer=optimizer)
        assert solution.gap < 0.05
        assert solution.gap < 0.5 * solvers.softmax_descent(gram, max_steps=0).gap


def test_units_do_not_matter():
    gram = gram_of(gaussian(4))
    plain = solvers.softmax_descent(gram).x
    for scale in (2.0**-60, 2.0**60):
        np.testing.assert_allclose(solvers.softmax_descent(gram * jnp.float32(scale)).x, plain, atol=1e-5)


def test_orthogonal_gradients_are_solved_by_the_start():
    gram = jnp.diag(jnp.array([1.0, 4.0, 100.0]))
    start = solvers.softmax_descent(gram, max_steps=0)
    np.testing.assert_allclose(start.x, solvers.min_norm(gram).x, rtol=1e-5)


def test_a_stationary_task_takes_all_the_weight():
    np.testing.assert_allclose(solvers.softmax_descent(jnp.diag(jnp.array([1.0, 0.0, 4.0]))).x, [0, 1, 0])
    np.testing.assert_allclose(solvers.softmax_descent(jnp.zeros((2, 2))).x, [0.5, 0.5])
    np.testing.assert_allclose(solvers.softmax_descent(jnp.diag(jnp.array([1.0, 0.0])), num_simplex=1).x, [1, 0])


def test_the_certificate_stops_it():
    gram = gram_of(gaussian(4))
    loose = solvers.softmax_descent(gram, tolerance=0.05)
    assert loose.gap <= 0.05
    assert loose.num_steps < 500


def test_it_is_a_solver_of_mgda_and_of_primary_aux():
    gram = gram_of(gaussian(4))
    for weighting in (mtl.weightings.mgda, mtl.weightings.primary_aux):
        weights = jax.jit(lambda gram, weighting=weighting: weighting(gram, solver=solvers.softmax_descent))(gram)
        np.testing.assert_allclose(weights, weighting(gram), atol=0.02)


def test_input_that_is_not_finite():
    solution = solvers.softmax_descent(jnp.full((3, 3), jnp.nan), max_steps=2)
    assert np.all(np.isnan(solution.x))
    assert np.isinf(solution.gap)


def test_vmap_agrees_with_single_calls():
    grams = jnp.stack([gram_of(gaussian(3, seed)) for seed in range(3)])
    batched = jax.vmap(lambda gram: solvers.softmax_descent(gram, max_steps=50).x)(grams)
    single = jnp.stack([solvers.softmax_descent(gram, max_steps=50).x for gram in grams])
    np.testing.assert_allclose(batched, single, atol=1e-5)
