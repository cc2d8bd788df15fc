"""The article's iteration for primary and auxiliary tasks, where it stalls, and the repair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtlgrad_jax as mtl
from mtlgrad_jax import solvers

STALLING = np.array([[-1.0, 0.0], [1.0, -1.0], [1.0, 0.0]])


def gram_of(task_grads):
    return jnp.asarray(task_grads @ task_grads.T, jnp.float32)


def gaussian(num_auxiliary, seed):
    return np.random.default_rng(seed).standard_normal((num_auxiliary + 1, num_auxiliary + 2))


def transcription(task_grads, num_steps):
    """Article 8907, equation (8), on vectors."""
    primary, auxiliary = task_grads[0], task_grads[1:]
    coefficients = np.zeros(len(auxiliary))
    trace = []
    for _ in range(num_steps):
        u = primary + coefficients @ auxiliary
        tau = np.argmin(auxiliary @ u)
        without = u - coefficients[tau] * auxiliary[tau]
        coefficients[tau] = max(-without @ auxiliary[tau], 0) / (auxiliary[tau] @ auxiliary[tau])
        trace.append(coefficients.copy())
    return np.stack(trace)


def test_the_article_stops_at_one_half_one_half():
    solution = solvers.greedy_coordinate(gram_of(STALLING), rule="article")
    np.testing.assert_allclose(solution.x, [1, 0.5, 0.5], rtol=1e-6)
    assert solution.num_steps == 2
    assert solution.gap > 0.1  # and the certificate says that this is no answer


def test_the_repaired_rule_reaches_zero_one():
    solution = solvers.greedy_coordinate(gram_of(STALLING))
    np.testing.assert_allclose(solution.x, [1, 0, 1], atol=1e-5)
    assert solution.gap < 1e-5


@pytest.mark.parametrize("seed", range(5))
def test_the_article_rule_is_the_article_iterate_by_iterate(seed):
    task_grads = gaussian(4, seed)
    expected = transcription(task_grads, 12)
    for k in range(1, 13):
        solution = solvers.greedy_coordinate(gram_of(task_grads), rule="article", max_steps=k)
        np.testing.assert_allclose(solution.x[1:], expected[k - 1], atol=2e-5)


@pytest.mark.parametrize("num_auxiliary", [1, 2, 5])
def test_the_repaired_rule_reaches_the_optimum_on_random_problems(num_auxiliary):
    solve = jax.jit(jax.vmap(lambda gram: solvers.greedy_coordinate(gram, max_steps=5000)))
    grams = jnp.stack([gram_of(gaussian(num_auxiliary, seed)) for seed in range(40)])
    assert np.max(solve(grams).gap) < 1e-5


@pytest.mark.parametrize(("num_auxiliary", "percent"), [(2, 9), (8, 65)])
def test_how_often_the_article_rule_stops_short(num_auxiliary, percent):
    task_grads = np.random.default_rng(num_auxiliary).standard_normal((1000, num_auxiliary + 1, num_auxiliary + 2))
    exactly = task_grads @ task_grads.transpose(0, 2, 1)

    def length_reached(solver, **options):
        weights = jax.vmap(lambda gram: solver(gram, num_simplex=1, **options).x)(jnp.asarray(exactly, jnp.float32))
        return np.einsum("bi,bij,bj->b", weights, exactly, weights)

    stalled = length_reached(solvers.greedy_coordinate, rule="article", max_steps=5000)
    short = stalled > length_reached(solvers.min_norm) * (1 + 1e-6)
    assert abs(100 * np.mean(short) - percent) < 5


def test_one_auxiliary_takes_one_step():
    task_grads = np.array([[2.0, 0.0], [-1.0, 1.0]])
    for rule in ("article", "gauss_southwell"):
        solution = solvers.greedy_coordinate(gram_of(task_grads), rule=rule)
        np.testing.assert_allclose(solution.x, [1, 1], rtol=1e-6)
        assert solution.num_steps == 1
        np.testing.assert_allclose(solution.x, solvers.min_norm(gram_of(task_grads), num_simplex=1).x)


def test_it_is_a_solver_of_primary_aux():
    rows = jnp.asarray(STALLING, jnp.float32)
    tx = mtl.primary_aux(num_tasks=3, solver=solvers.greedy_coordinate)
    update, state = jax.jit(tx.update)(rows, tx.init(rows[0]), rows[0])
    np.testing.assert_allclose(update, 0, atol=1e-5)
    assert state.gap < 1e-5


@pytest.mark.parametrize("scale", [1e-15, 1e15])
@pytest.mark.parametrize("rule", ["article", "gauss_southwell"])
def test_units_do_not_matter(rule, scale):
    task_grads = gaussian(4, 0)
    plain = solvers.greedy_coordinate(gram_of(task_grads), rule=rule)
    scaled = solvers.greedy_coordinate(gram_of(task_grads) * jnp.float32(scale), rule=rule)
    np.testing.assert_allclose(scaled.x, plain.x, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rule", ["article", "gauss_southwell"])
def test_corners(rule):
    def solve(rows):
        return solvers.greedy_coordinate(gram_of(np.array(rows)), rule=rule)

    np.testing.assert_array_equal(solve([[3.0]]).x, [1])
    np.testing.assert_array_equal(solve([[0.0, 0.0], [0.0, 0.0]]).x, [1, 0])
    np.testing.assert_array_equal(solve([[1.0, 0.0], [0.0, 0.0]]).x, [1, 0])
    np.testing.assert_array_equal(solve([[0.0, 0.0], [1.0, 0.0]]).x, [1, 0])
    np.testing.assert_allclose(solve([[1.0, 0.0], [-1.0, 0.0]]).x, [1, 1], rtol=1e-6)
    twins = solve([[1.0, 0.0], [-1.0, 1.0], [-1.0, 1.0]])
    np.testing.assert_allclose(twins.x[1] + twins.x[2], 0.5, rtol=1e-6)
    assert solve([[2.0, 1.0], [1.0, 1.0]]).num_steps == 0
    broken = solvers.greedy_coordinate(jnp.full((3, 3), jnp.inf), rule=rule)
    assert np.all(np.isnan(broken.x))
    assert np.isinf(broken.gap)


@pytest.mark.parametrize("kwargs", [{"num_simplex": 2}, {"num_simplex": None}, {"rule": "steepest"}])
def test_bad_input_is_explained(kwargs):
    with pytest.raises(ValueError, match="greedy_coordinate solves for one primary|expected rule"):
        solvers.greedy_coordinate(jnp.eye(3), **kwargs)
