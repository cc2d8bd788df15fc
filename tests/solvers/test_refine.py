"""Products with J take the weights past the precision of the Gram matrix, and cost nothing where that suffices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from families import draw, excess, near_opposed

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import stacked


@jax.jit
def both(rows, num_simplex):
    """Return weights from the Gram matrix, and the refined ones with their bound."""
    jac = stacked.Stacked(rows)
    gram = jac.gram()
    weights = mtl.solvers.min_norm(gram, num_simplex).x
    return weights, mtl.solvers.refine(gram, weights, jax.vmap(lambda w: jac.push(jac.combine(w))), num_simplex)


@pytest.mark.parametrize("num_tasks", [2, 8])
def test_excess_is_at_most_1e_5_where_the_optimum_is_1e_4_of_the_longest(num_tasks):
    for num_simplex in {1, num_tasks // 2, num_tasks}:
        for seed in range(4):
            rows = near_opposed(num_tasks, 1e-4, seed).astype(np.float32)
            weights, refined = both(rows, num_simplex)
            unrefined, _ = excess(rows.astype(np.float64), weights, num_simplex)
            found, best = excess(rows.astype(np.float64), refined.x, num_simplex)
            assert np.sqrt(best) < 5e-4
            assert found <= 1e-5, (num_simplex, seed)
            assert unrefined > 1e-3 or num_tasks == 2, (num_simplex, seed)  # two have a closed form
            assert found / (1 + found) - 1e-6 <= refined.gap <= 3e-6 / np.sqrt(best) and refined.num_steps > 0


def test_at_1e_5_of_the_longest_the_rounding_of_weights_is_all_that_is_left():
    for seed in range(3):
        rows = near_opposed(8, 1e-5, seed).astype(np.float32)
        _, refined = both(rows, 8)
        assert excess(rows.astype(np.float64), refined.x, 8)[0] <= 1e-3 and refined.num_steps <= 2


@pytest.mark.parametrize("family", ["gaussian", "spread", "duplicated", "cone", "kahan"])
def test_answers_of_other_families_stay_as_good_and_bounds_honest(family):
    for num_simplex in (1, 4, 8):
        rows = draw(family, 8, 0)
        rows = np.pad(rows, ((0, 0), (0, 60 - rows.shape[1])))
        weights, refined = both(rows, num_simplex)
        found, best = excess(rows.astype(np.float64), refined.x, num_simplex)
        assert found <= 2e-6 or best < 1e-6 * np.sum(rows**2, axis=1)[:num_simplex].min()
        assert refined.gap >= found / (1 + found) - 1e-6
        if refined.num_steps == 0:
            np.testing.assert_array_equal(refined.x, weights)


def test_products_of_less_precision_than_the_gram_matrix_change_nothing():
    rows = jnp.asarray(near_opposed(2, 1e-2, 0), jnp.float32)
    gram = rows @ rows.T
    weights = mtl.solvers.min_norm(gram).x
    coarse = lambda basis: (basis @ rows).astype(jnp.bfloat16).astype(jnp.float32) @ rows.T
    refined = jax.jit(lambda gram, weights: mtl.solvers.refine(gram, weights, coarse))(gram, weights)
    np.testing.assert_array_equal(refined.x, weights)
    np.testing.assert_allclose(refined.gap, mtl.solvers.certificates.relative_gap(gram, weights), rtol=1e-5)


def test_derivatives_are_those_of_the_weights():
    rows, step = jnp.asarray(near_opposed(3, 1e-2, 0), jnp.float32), jnp.ones((3, 60)) * jnp.arange(3.0)[:, None]

    def refined(rows):
        weights = mtl.solvers.min_norm(rows @ rows.T).x
        return mtl.solvers.refine(rows @ rows.T, weights, lambda basis: (basis @ rows) @ rows.T).x

    @partial(jax.jit, static_argnums=0)
    def both_ways(function, rows):
        return jax.jvp(function, (rows,), (step,))[1], jax.vjp(function, rows)[1](jnp.arange(3.0))[0]

    plain = lambda rows: mtl.solvers.min_norm(rows @ rows.T).x
    for ours, theirs in zip(both_ways(refined, rows), both_ways(plain, rows), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)
