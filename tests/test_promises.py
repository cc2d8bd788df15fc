"""Methods × promises × nasty Jacobians."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BENIGN, JACOBIANS, METHODS, NOT_STRONG, draw

from mtlgrad_jax.jacobians import stacked

SIZES = (1, 2, 3, 8)


def methods(promise=None):
    return [name for name, method in METHODS.items() if promise is None or method.keeps(promise)]


def sizes_for(method):
    return [t for t in SIZES if method.min_tasks <= t <= (method.max_tasks or t)]


NUM_TRACES = collections.Counter()


@functools.cache
def jitted(method):
    """Compile a method once for all tests, and count how often it is traced."""

    def traced(gram):
        NUM_TRACES[method, gram.shape[0]] += 1
        return method.weigh(gram)

    return jax.jit(traced)


def widen(task_grads, num_columns=64):
    """Append zero columns, so that one compilation serves the Jacobians of all widths."""
    return np.pad(task_grads, ((0, 0), (0, num_columns - task_grads.shape[1])))


scaled_gram = jax.jit(stacked.scaled_gram)
gram_of = jax.jit(stacked.gram)


def weigh(method, task_grads):
    """Weights as float64, of the Gram matrix that a transformation would hand over."""
    gram, log2_scale = scaled_gram(widen(task_grads))
    weights = np.asarray(jitted(method)(gram), np.float64)
    return weights * 2.0 ** (method.degree * int(log2_scale))


def update_of(method, task_grads):
    return weigh(method, task_grads) @ task_grads.astype(np.float64)


@pytest.mark.parametrize("jacobian", JACOBIANS)
@pytest.mark.parametrize("name", methods())
def test_weights_are_finite(name, jacobian):
    for num_tasks in sizes_for(METHODS[name]):
        weights = weigh(METHODS[name], draw(jacobian, num_tasks))
        assert weights.shape == (num_tasks,)
        assert np.all(np.isfinite(weights)), (num_tasks, weights)


@pytest.mark.parametrize("jacobian", JACOBIANS)
@pytest.mark.parametrize("name", methods("non_conflicting"))
def test_no_task_is_hurt(name, jacobian):
    for num_tasks in sizes_for(METHODS[name]):
        task_grads = draw(jacobian, num_tasks)
        update = update_of(METHODS[name], task_grads)
        lengths = np.linalg.norm(task_grads.astype(np.float64), axis=1)
        slopes = task_grads.astype(np.float64) @ update
        if jacobian in BENIGN:
            cosines = slopes / (lengths * np.linalg.norm(update))
            assert cosines.min() >= -1e-5, (num_tasks, cosines)
        else:
            floor = -1e-6 * lengths * max(lengths.max(), np.linalg.norm(update))
            assert np.all(slopes >= floor), (num_tasks, slopes)


@pytest.mark.parametrize("jacobian", JACOBIANS)
@pytest.mark.parametrize("name", methods("primary_aux"))
def test_no_auxiliary_is_hurt_and_the_primary_is_followed(name, jacobian):
    for num_tasks in sizes_for(METHODS[name]):
        task_grads = draw(jacobian, num_tasks)
        update = update_of(METHODS[name], task_grads)
        lengths = np.linalg.norm(task_grads.astype(np.float64), axis=1)
        slopes = task_grads.astype(np.float64) @ update
        assert np.all(slopes >= -1e-5 * lengths * lengths[0]), (num_tasks, slopes)
        if jacobian in BENIGN:
            factors = np.random.default_rng(1).uniform(0.1, 10, (num_tasks - 1, 1)).astype(np.float32)
            agreeing = np.concatenate([task_grads[:1], factors * task_grads[:1]])
            np.testing.assert_allclose(update_of(METHODS[name], agreeing), task_grads[0], rtol=1e-6)


@pytest.mark.parametrize("name", methods("permutation") + methods("permutation_near"))
def test_relabelling_tasks_relabels_weights(name):
    for jacobian in ("gaussian", "opposed", "spread_4")[: 3 if METHODS[name].keeps("permutation") else 2]:
        for num_tasks in sizes_for(METHODS[name]):
            task_grads = draw(jacobian, num_tasks)
            order = np.random.default_rng(1).permutation(num_tasks)
            expected = weigh(METHODS[name], task_grads)[order]
            actual = weigh(METHODS[name], task_grads[order])
            lengths = np.linalg.norm(task_grads, axis=1)[order]
            error = np.abs((actual - expected) * lengths).max()
            assert error <= 1e-5 * np.abs(expected * lengths).max(), (jacobian, num_tasks)


def length_of_update(name, jacobian, num_tasks, seed):
    """Return ‖u‖ in units of its longest summand."""
    task_grads = draw(jacobian, num_tasks, seed)
    summands = weigh(METHODS[name], task_grads)[:, None] * task_grads.astype(np.float64)
    return np.linalg.norm(summands.sum(axis=0)) / np.linalg.norm(summands, axis=1).max()


@pytest.mark.parametrize("name", methods("strongly_stationary"))
@pytest.mark.parametrize("jacobian", NOT_STRONG)
def test_update_is_zero_at_strongly_stationary_points_only(name, jacobian):
    """Gradients are 5 to 10 long; what rounding leaves of a zero is 1e-7."""
    for num_tasks in sizes_for(METHODS[name]):
        if num_tasks > (2 if jacobian == "half_stationary" else 1):
            for seed in range(3):
                assert length_of_update(name, jacobian, num_tasks, seed) > 5e-3, (num_tasks, seed)


def test_mgda_stops_where_only_some_weights_are_positive():
    assert length_of_update("mgda", "half_stationary", 3, 0) < 1e-6


@pytest.mark.parametrize("name", methods())
def test_a_common_scale_changes_nothing(name):
    """The direction, and the weights up to their unit, from 1e-30 to 1e+30."""
    method = METHODS[name]
    for num_tasks in sizes_for(method):
        task_grads = draw("gaussian", num_tasks)
        expected = weigh(method, task_grads)
        for power in (-100, -50, -3, 50, 100):
            scale = np.float32(2.0**power)
            actual = weigh(method, task_grads * scale) * 2.0 ** (-method.degree * power)
            np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", methods("linear_under_scaling"))
@pytest.mark.parametrize("jacobian", ["gaussian", "opposed", "spread_4"])
def test_update_is_linear_in_the_scale_of_one_gradient(name, jacobian):
    for size in (1.0, 1e-6):
        for num_tasks in sizes_for(METHODS[name]):
            task_grads = draw(jacobian, num_tasks) * np.float32(size)
            update = {}
            for factor in (0.5, 1.0, 2.0):
                scaled = task_grads.copy()
                scaled[0] *= np.float32(factor)
                update[factor] = update_of(METHODS[name], scaled)
            expected = update[0.5] + (update[1.0] - update[0.5]) * 3
            error = np.linalg.norm(update[2.0] - expected) / np.linalg.norm(update[2.0])
            assert error <= 1e-5, (size, num_tasks, error)


@pytest.mark.parametrize("name", methods("alive"))
def test_tasks_that_agree_are_followed(name):
    for num_tasks in sizes_for(METHODS[name]):
        for size in (1e-10, 1.0, 1e10):
            shared = np.random.default_rng(2).standard_normal(30).astype(np.float32) * np.float32(size)
            update = update_of(METHODS[name], np.tile(shared, (num_tasks, 1)))
            cosine = update @ shared / (np.linalg.norm(update) * np.linalg.norm(shared))
            assert cosine > 1 - 1e-6, (num_tasks, size)
            if METHODS[name].degree == 0:
                assert np.linalg.norm(update) > 0.01 * np.linalg.norm(shared), (num_tasks, size)


def test_the_zero_weighting_is_dead():
    """It passes every safety test; only liveness tells it from a method."""
    update = np.zeros(3) @ draw("gaussian", 3)
    with np.errstate(invalid="ignore"):
        cosine = update @ update / (np.linalg.norm(update) ** 2)
    assert not cosine > 1 - 1e-6


@pytest.mark.parametrize("name", methods())
def test_jit_vmap_eager_agree_and_one_trace_is_enough(name):
    method = METHODS[name]
    num_tasks = max(sizes_for(method))
    grams = jnp.stack([gram_of(widen(draw("gaussian", num_tasks, seed))) for seed in range(3)])
    eager = method.weigh(grams[0])
    compiled = jnp.stack([jitted(method)(gram) for gram in grams])
    batched = jax.jit(jax.vmap(method.weigh))(grams)
    assert NUM_TRACES[method, num_tasks] == 1
    assert eager.dtype == compiled.dtype == batched.dtype == jnp.float32
    np.testing.assert_allclose(compiled[0], eager, rtol=1e-4, atol=1e-5 * np.abs(eager).max())
    np.testing.assert_allclose(batched, compiled, rtol=1e-4, atol=1e-5 * np.abs(compiled).max())


@pytest.mark.parametrize("name", methods())
def test_no_nan_is_ever_created(name):
    method = METHODS[name]
    with jax.debug_nans(True):
        for jacobian in JACOBIANS:
            for num_tasks in sizes_for(method)[-2:]:
                jax.block_until_ready(method.weigh(gram_of(widen(draw(jacobian, num_tasks)))))
