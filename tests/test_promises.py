"""What methods claim × nasty Jacobians, through their Optax factories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    BENIGN,
    CROSSED,
    JACOBIANS,
    METHODS,
    NOT_STRONG,
    NUM_STEPS,
    draw,
    every_method,
    falling_losses,
    one_of_each_kind,
    that_keep,
    train,
    training,
    update_of,
    widen,
)

from mtlgrad_jax.typing import NEEDS, PROMISES

every_jacobian = pytest.mark.parametrize("jacobian", JACOBIANS)


@every_method
def test_update_and_record_are_finite(case):
    for jacobian in JACOBIANS:
        for num_tasks in case.sizes:
            update, state = train(case, draw(jacobian, num_tasks))
            for leaf in jax.tree.leaves((update, state.gram, state.weights)):
                assert np.all(np.isfinite(leaf)), (jacobian, num_tasks)
            assert not any(np.any(np.isnan(leaf)) for leaf in jax.tree.leaves(state.memory)), (jacobian, num_tasks)


@every_method
def test_zero_gradients_give_a_zero_update(case):
    for num_tasks in case.sizes:
        assert not np.any(train(case, np.zeros((num_tasks, 5), np.float32))[0]), num_tasks


@pytest.mark.parametrize("case", [case for case in METHODS if not case.on_rows], ids=str)
def test_the_update_is_the_weighted_sum_of_the_record(case):
    for num_tasks in case.sizes:
        task_grads = draw("gaussian", num_tasks)
        update, state = train(case, task_grads)
        expected = np.asarray(state.weights, np.float64) @ task_grads
        np.testing.assert_allclose(update[: len(expected)], expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())
        if state.gram is not None:
            np.testing.assert_allclose(state.gram, task_grads @ task_grads.T, rtol=1e-4, atol=1e-4)


@that_keep("C")
@every_jacobian
def test_no_task_is_hurt(case, jacobian):
    for num_tasks in case.sizes:
        task_grads = draw(jacobian, num_tasks)
        update = update_of(case, task_grads)
        lengths = np.linalg.norm(task_grads.astype(np.float64), axis=1)
        slopes = task_grads.astype(np.float64) @ update
        summands = np.abs(train(case, task_grads)[1].weights) * lengths  # the Gram matrix is rounded in their units
        if jacobian in BENIGN:
            cosines = slopes / (lengths * np.linalg.norm(update))
            assert cosines.min() >= -1e-5, (num_tasks, cosines)
        else:
            floor = -1e-6 * lengths * max(lengths.max(), summands.sum())
            assert np.all(slopes >= floor), (num_tasks, slopes)


@that_keep("A")
@every_jacobian
def test_no_auxiliary_is_hurt_and_the_primary_is_followed(case, jacobian):
    for num_tasks in case.sizes:
        task_grads = draw(jacobian, num_tasks)
        update = update_of(case, task_grads)
        lengths = np.linalg.norm(task_grads.astype(np.float64), axis=1)
        slopes = task_grads.astype(np.float64) @ update
        assert np.all(slopes >= -1e-5 * lengths * lengths[0]), (num_tasks, slopes)
        if jacobian in BENIGN:
            factors = np.random.default_rng(1).uniform(0.1, 10, (num_tasks - 1, 1)).astype(np.float32)
            agreeing = np.concatenate([task_grads[:1], factors * task_grads[:1]])
            np.testing.assert_allclose(update_of(case, agreeing), task_grads[0], rtol=1e-6)


def rotations(task_grads):
    """Three Jacobians with other rows in each, so that what was seen before is not what is seen now."""
    return [np.roll(task_grads, step, axis=1) for step in range(NUM_STEPS)]


def assert_relabelling_changes_nothing(case, jacobians):
    """Rows and losses change places."""
    for jacobian in jacobians:
        for num_tasks in case.sizes:
            task_grads = draw(jacobian, num_tasks)
            order = np.random.default_rng(1).permutation(num_tasks)
            steps = rotations(task_grads) if case.on_rows else [task_grads] * NUM_STEPS
            expected = update_of(case, *steps)
            actual = update_of(case, *steps, order=order)
            weights = np.abs(np.asarray(train(case, *steps)[1].weights)) * np.linalg.norm(task_grads, axis=1)
            size = max(np.linalg.norm(expected), weights.max())  # of the update and of its longest summand
            assert np.linalg.norm(actual - expected) <= 1e-5 * size, (jacobian, num_tasks)


@that_keep("P")
def test_relabelling_tasks_does_not_move_the_update(case):
    assert_relabelling_changes_nothing(case, ["gaussian", "opposed", "spread_4"])


@that_keep("p")
def test_relabelling_tasks_of_like_lengths_does_not_move_the_update(case):
    assert_relabelling_changes_nothing(case, ["gaussian", "opposed"])


def length_of_update(case, jacobian, num_tasks, seed):
    """Return ‖u‖ in units of its longest summand."""
    task_grads = draw(jacobian, num_tasks, seed)
    update, state = train(case, task_grads)
    summands = np.asarray(state.weights, np.float64)[:, None] * task_grads.astype(np.float64)
    return np.linalg.norm(np.asarray(update, np.float64)) / np.linalg.norm(summands, axis=1).max()


@that_keep("Z")
@pytest.mark.parametrize("jacobian", NOT_STRONG)
def test_update_is_zero_at_strongly_stationary_points_only(case, jacobian):
    """Gradients are 5 to 10 long; what rounding leaves of a zero is 1e-7."""
    for num_tasks in case.sizes:
        if num_tasks > (2 if jacobian == "half_stationary" else 1):
            for seed in range(3):
                assert length_of_update(case, jacobian, num_tasks, seed) > 5e-3, (num_tasks, seed)


def test_mgda_stops_where_only_some_weights_are_positive():
    (mgda,) = (case for case in METHODS if str(case) == "mgda")
    assert length_of_update(mgda, "half_stationary", 3, 0) < 1e-6


@pytest.mark.parametrize("case", [case for case in METHODS if case.claims.degree is not None], ids=str)
def test_a_common_scale_changes_the_length_only(case):
    """From 1e-30 to 1e+30."""
    for num_tasks in case.sizes:
        task_grads = draw("gaussian", num_tasks)
        expected = update_of(case, task_grads)
        fits = lambda power: abs(case.claims.degree * power) < 125  # weights are float32
        for power in filter(fits, (-100, -50, -3, 50, 100)):
            actual = update_of(case, task_grads * np.float32(2.0**power)) * 2.0 ** (-(1 + case.claims.degree) * power)
            np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=1e-5 * np.abs(expected).max())


@that_keep("L")
@pytest.mark.parametrize("jacobian", ["gaussian", "opposed", "spread_4"])
def test_update_is_linear_in_the_scale_of_one_gradient(case, jacobian):
    for size in (1.0, 1e-6):
        for num_tasks in case.sizes:
            task_grads = draw(jacobian, num_tasks) * np.float32(size)
            update = {}
            for factor in (0.5, 1.0, 2.0):
                scaled = task_grads.copy()
                scaled[0] *= np.float32(factor)
                update[factor] = update_of(case, scaled)
            expected = update[0.5] + (update[1.0] - update[0.5]) * 3
            error = np.linalg.norm(update[2.0] - expected) / np.linalg.norm(update[2.0])
            assert error <= 1e-5, (size, num_tasks, error)


@that_keep("F")
def test_tasks_that_agree_are_followed(case):
    for num_tasks in case.sizes:
        for size in (1e-10, 1.0, 1e10):
            shared = np.random.default_rng(2).standard_normal(30).astype(np.float32) * np.float32(size)
            update, length = update_of(case, np.tile(shared, (num_tasks, 1))), np.linalg.norm(shared.astype(np.float64))
            assert update @ shared / (np.linalg.norm(update) * length) > 1 - 1e-6, (num_tasks, size)
            if case.claims.degree in (0, None):
                assert np.linalg.norm(update) > 0.01 * length, (num_tasks, size)


def test_the_zero_weighting_is_dead():
    """It passes every safety test; only liveness tells it from a method."""
    update = np.zeros(3) @ draw("gaussian", 3)
    with np.errstate(invalid="ignore"):
        cosine = update @ update / (np.linalg.norm(update) ** 2)
    assert not cosine > 1 - 1e-6


def distance_to_span(update, rows):
    coefficients = np.linalg.lstsq(rows.T, update, rcond=None)[0]
    return np.linalg.norm(update - coefficients @ rows) / np.linalg.norm(update)


@that_keep("S")
def test_update_is_in_the_span_of_the_rows_seen(case):
    for num_tasks in case.sizes:
        steps = rotations(draw("gaussian", num_tasks)[:, :40])
        update = update_of(case, *steps)
        assert distance_to_span(update, np.concatenate(steps).astype(np.float64)) < 1e-5, num_tasks


@pytest.mark.parametrize("case", [case for case in METHODS if case.on_rows and not case.keeps("S")], ids=str)
def test_coordinate_methods_leave_the_span(case):
    """The test above can fail."""
    task_grads = draw("gaussian", 3)
    assert distance_to_span(update_of(case, task_grads), task_grads.astype(np.float64)) > 1e-2


@pytest.mark.parametrize("case", one_of_each_kind(METHODS), ids=str)
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_bfloat16_leaves_keep_their_dtype_at_every_scale(case, scale):
    """The Gram matrix, and with it the weights, are float32 whatever the leaves are."""
    update, _ = train(case, draw("gaussian", case.sizes[-1]) * np.float32(scale), dtype=jnp.bfloat16)
    assert update.dtype == jnp.bfloat16
    assert np.all(np.isfinite(update.astype(jnp.float32)))
    assert np.any(update != 0)


@every_method
def test_vmap_agrees_with_jit(case):
    num_tasks = case.sizes[-1]
    sequences = np.stack([[widen(draw("gaussian", num_tasks, seed))] * NUM_STEPS for seed in range(3)])
    run, losses = training(case, num_tasks), falling_losses(num_tasks)
    batched, _ = jax.jit(jax.vmap(run, (0, None)))(sequences, losses)
    for sequence, update in zip(sequences, batched, strict=True):
        expected, _ = run(sequence, losses)
        assert update.dtype == expected.dtype == jnp.float32
        np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert run._cache_size() == 1


@every_method
def test_no_nan_is_ever_created(case):
    """Primitive by primitive; a NaN inside a compiled program that a `where` hides would be found only so."""
    num_tasks = case.sizes[-1]
    tx, losses = case.make(num_tasks), jnp.arange(1, num_tasks + 1).astype(jnp.float32)
    with jax.debug_nans(True):
        for jacobian in JACOBIANS:
            rows = jnp.asarray(widen(draw(jacobian, num_tasks)))
            extras = {"task": 0} if case.one_per_step else case.extras(rows, losses)
            jax.block_until_ready(tx.update(rows[0] if case.one_per_step else rows, tx.init(rows[0]), **extras))


def test_every_promise_is_asked_for_and_every_claim_is_a_promise():
    claimed = set().union(*(case.claims.keeps for case in METHODS))
    assert claimed == set(CROSSED) == set(PROMISES)
    assert set().union(*(case.claims.needs for case in METHODS)) == set(NEEDS)
