"""Averages over the times that weights are computed, inside `every_k` and beside it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import mtlgrad_jax as mtl
from mtlgrad_jax.weightings import every_k, mgda, on_average_gram, smoothed

T, K, STEPS, ALPHA = 3, 3, 10, 0.7
ROWS = np.random.default_rng(0).standard_normal((STEPS, T, 5)) * np.array([1.0, 2.0, 3.0])[:, None]
GRAMS = np.einsum("sip,sjp->sij", ROWS, ROWS)


def average(values):
    """Return α·before + (1−α)·new for every value, from the first one on."""
    kept = [values[0]]
    for value in values[1:]:
        kept.append(ALPHA * kept[-1] + (1 - ALPHA) * value)
    return np.stack(kept)


def train(weighting, grams):
    """Weigh each Gram matrix in a chain of Optax, and return the weights."""
    tx = mtl.aggregate(weighting, T)

    def step(state, rows):
        _, state = tx.update(rows, state)
        return state, state.weights

    return np.asarray(lax.scan(step, tx.init(jnp.zeros(5)), jnp.asarray(grams, jnp.float32))[1])


def test_weights_and_gram_matrices_are_averaged_over_the_refreshes():
    fresh = np.asarray(jax.vmap(mgda)(jnp.asarray(GRAMS[::K], jnp.float32)))
    of_weights = train(every_k(smoothed(mgda, alpha=ALPHA), K), ROWS)
    np.testing.assert_allclose(of_weights, np.repeat(average(fresh), K, axis=0)[:STEPS], atol=1e-5)
    expected = np.asarray(jax.vmap(mgda)(jnp.asarray(average(GRAMS[::K]), jnp.float32)))
    of_grams = train(every_k(on_average_gram(mgda, alpha=ALPHA), K), ROWS)
    np.testing.assert_allclose(of_grams, np.repeat(expected, K, axis=0)[:STEPS], atol=1e-5)
    assert np.abs(of_grams - of_weights).max() > 1e-2


def told_unit(gram, log2_scale):
    return gram[0] + log2_scale.astype(gram.dtype)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_averages_of_gram_matrices_have_any_unit(alpha):
    """After a gradient of length 2⁷⁰ the memory is in its unit, until it has faded enough for the usual one."""
    weighting = on_average_gram(told_unit, alpha=alpha)

    def step(state, unit):
        weights, state = weighting.update(jnp.eye(2), state, log2_scale=unit)
        return state, (weights, state.log2_scale)

    units = jnp.array([0, 70, -70, 0] + 200 * [0], jnp.int32)
    state, (weights, used) = lax.scan(step, weighting.init(2), units)
    assert used[0] == 0 and used[1] == 70 and used[-1] == 0
    np.testing.assert_array_equal(used[:4], [0, 70, 70, 70] if alpha else [0, 70, -70, 0])
    np.testing.assert_array_equal(weights[:, 1], used)
    np.testing.assert_allclose(state.gram, np.eye(2), rtol=1e-5)


def test_what_is_known_of_an_absent_task_rests_and_the_average_stays_one_of_gradients():
    weighting = on_average_gram(mgda, alpha=ALPHA)
    update, state = jax.jit(weighting.update), weighting.init(T)
    for number, gram in enumerate(GRAMS):
        present = jnp.array([True, number % 2 == 0, number > 3])
        before = state
        weights, state = update(jnp.asarray(gram, jnp.float32), before, present=present)
        absent = ~np.asarray(present)
        np.testing.assert_array_equal(np.diagonal(state.gram)[absent], np.diagonal(before.gram)[absent])
        np.testing.assert_array_equal(weights[absent], 0)
        assert np.linalg.eigvalsh(np.asarray(state.gram, np.float64)).min() > -1e-5


def test_alpha_is_a_share():
    with pytest.raises(ValueError, match="expected alpha between 0 and 1, got 2"):
        on_average_gram(mgda, alpha=2)
