"""As exact as float64 on the same Gram matrix, on every family that was seen to be hard, in a few steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import FAMILIES, OPPOSED, draw, exact_weights, excess, near_opposed, simplex_sizes, square_root

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.solvers import _factor, _products


def judge(rows, num_simplex):
    """Return our excess, that of a float64 solve of the same Gram matrix, |u*|² in shortest rows, and the solution."""
    gram = stacked.gram(jnp.asarray(rows))
    solution = mtl.solvers.min_norm(gram, num_simplex)
    rows = rows.astype(np.float64)
    ours, best = excess(rows, solution.x, num_simplex)
    reference, _ = excess(rows, exact_weights(square_root(np.asarray(gram)), num_simplex), num_simplex)
    return ours, reference, best / np.linalg.norm(rows[:num_simplex], axis=1).min() ** 2, solution


@pytest.mark.parametrize("num_tasks", [5, 64])
@pytest.mark.parametrize("family", FAMILIES | OPPOSED)
def test_excess_is_that_of_float64_on_the_same_gram(family, num_tasks):
    for num_simplex in simplex_sizes(num_tasks) if num_tasks < 10 else (num_tasks // 2, num_tasks):
        ours, reference, square, solution = judge(draw(family, num_tasks, 0), num_simplex)
        assert square < 1e-6 or ours <= max(3 * reference, 2e-6), (num_simplex, ours, reference)
        assert np.all(solution.x >= 0)
        assert solution.num_steps <= 20 + num_tasks // 2


def test_near_opposition_does_not_hurt_as_it_did():
    for num_tasks, eps, bound in ((5, 1e-2, 2e-6), (64, 3e-3, 1e-3), (128, 5e-3, 2e-4)):
        for seed in range(3):
            assert judge(near_opposed(num_tasks, eps, seed).astype(np.float32), num_tasks)[0] <= bound


def test_many_tasks_in_few_dimensions_take_a_few_steps():
    for rank in (16, 64, 80, 96, 128):  # zero is well within the hull, near its border, and outside
        rows = np.random.default_rng(rank).standard_normal((128, rank)).astype(np.float32)
        solution = mtl.solvers.min_norm(stacked.gram(jnp.asarray(rows)))
        update = np.asarray(solution.x, np.float64) @ rows
        best = exact_weights(rows.astype(np.float64), 128) @ rows
        assert solution.num_steps <= 30, rank
        assert solution.gap <= 1e-5
        assert np.linalg.norm(update - best) <= 1e-5 * np.linalg.norm(rows, axis=1).max()


def test_large_matrices_are_factorised_in_blocks():
    def solve(matrix, rhs):
        factor = _factor.cholesky(matrix)
        return factor.solve(rhs), factor.weakest

    rows = np.random.default_rng(0).standard_normal((257, 600)).astype(np.float32)
    matrix, rhs = jnp.asarray(rows @ rows.T / 600), jnp.asarray(rows[:, 0])
    solution, weakest = jax.jit(solve)(matrix, rhs)
    np.testing.assert_allclose(matrix @ solution, rhs, atol=1e-5)
    np.testing.assert_allclose(weakest, np.linalg.cholesky(matrix).diagonal().min(), rtol=1e-4)


def test_cancelling_products_keep_their_last_bits():
    rng = np.random.default_rng(0)
    product = jax.jit(lambda matrix, x: _products.product(_products.of_matrix(matrix, 2), x))
    for num_terms in (3, 500):
        matrix, x = rng.uniform(-1, 1, (5, num_terms)).astype(np.float32), rng.random(num_terms).astype(np.float32)
        matrix[:, -1] = np.clip(-(matrix[:, :-1] @ x[:-1]) / max(x[-1], 0.5), -3.9, 3.9)
        high, low = product(jnp.asarray(matrix), jnp.asarray(x))
        exact = matrix.astype(np.float64) @ x.astype(np.float64)
        error = np.abs(np.asarray(high, np.float64) + np.asarray(low) - exact)
        assert np.all(error <= 2.0**-30 * num_terms)
