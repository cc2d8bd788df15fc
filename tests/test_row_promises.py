"""Methods that need the rows × promises × nasty Jacobians."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import JACOBIANS, ROW_METHODS, draw

NUM_COLUMNS = 64  # zero columns are appended, so that one compilation serves all Jacobians
NUM_STEPS = 3
SIZES = (1, 2, 3, 8)


def row_methods(promise=None):
    return [name for name, method in ROW_METHODS.items() if promise is None or method.keeps(promise)]


def sizes_for(method):
    return [t for t in SIZES if t >= method.min_tasks]


@functools.cache
def training(name, num_tasks, dtype=jnp.float32):
    """Return a jitted function from a sequence of Jacobians (steps, T, P) to the last update and the record."""
    method = ROW_METHODS[name]
    tx = method.make(num_tasks)

    def step(state, task_grads):
        update, state = tx.update(task_grads, state, **({} if method.one_per_step else method.extras(task_grads)))
        return state, update

    @jax.jit
    def train(sequence):
        rows = sequence.reshape(-1, NUM_COLUMNS) if method.one_per_step else sequence
        state, updates = jax.lax.scan(step, tx.init(jnp.zeros(NUM_COLUMNS, dtype)), rows)
        return updates[-1], state

    return train


def train(name, *steps, dtype=jnp.float32):
    """Return the update, and the record, after one step or several; a single Jacobian is seen three times."""
    steps = steps * NUM_STEPS if len(steps) == 1 else steps
    sequence = np.stack([np.pad(rows, ((0, 0), (0, NUM_COLUMNS - rows.shape[1]))) for rows in steps])
    update, state = training(name, sequence.shape[1], dtype)(jnp.asarray(sequence, dtype))
    return update, state


@pytest.mark.parametrize("name", row_methods())
def test_update_and_record_are_finite(name):
    for jacobian in JACOBIANS:
        for num_tasks in sizes_for(ROW_METHODS[name]):
            update, state = train(name, draw(jacobian, num_tasks))
            for leaf in (update, state.weights, state.gap, *jax.tree.leaves(state.memory)):
                assert np.all(np.isfinite(leaf)), (jacobian, num_tasks)


@pytest.mark.parametrize("name", row_methods())
def test_zero_gradients_give_a_zero_update(name):
    for num_tasks in sizes_for(ROW_METHODS[name]):
        assert not np.any(train(name, np.zeros((num_tasks, 5), np.float32))[0]), num_tasks


@pytest.mark.parametrize("name", row_methods("alive"))
def test_tasks_that_agree_are_followed(name):
    for num_tasks in sizes_for(ROW_METHODS[name]):
        for size in (1e-10, 1.0, 1e10):
            shared = np.random.default_rng(2).standard_normal(30).astype(np.float32) * np.float32(size)
            update = np.asarray(train(name, np.tile(shared, (num_tasks, 1)))[0], np.float64)[:30]
            length = np.linalg.norm(shared.astype(np.float64))
            assert update @ shared / (np.linalg.norm(update) * length) > 1 - 1e-6, (num_tasks, size)
            assert np.linalg.norm(update) > 0.5 * length, (num_tasks, size)


def rotations(task_grads):
    """Three Jacobians with other rows in each, so that what was seen before is not what is seen now."""
    return [np.roll(task_grads, step, axis=1) for step in range(NUM_STEPS)]


def distance_to_span(update, rows):
    coefficients = np.linalg.lstsq(rows.T, update, rcond=None)[0]
    return np.linalg.norm(update - coefficients @ rows) / np.linalg.norm(update)


@pytest.mark.parametrize("name", row_methods("in_span"))
def test_update_is_in_the_span_of_the_rows_seen(name):
    for num_tasks in sizes_for(ROW_METHODS[name]):
        steps = rotations(draw("gaussian", num_tasks)[:, :40])
        update = np.asarray(train(name, *steps)[0], np.float64)[: steps[0].shape[1]]
        assert distance_to_span(update, np.concatenate(steps).astype(np.float64)) < 1e-5, num_tasks


@pytest.mark.parametrize("name", sorted(set(row_methods()) - set(row_methods("in_span"))))
def test_coordinate_methods_leave_the_span(name):
    """The test above can fail."""
    task_grads = draw("gaussian", 3)
    update = np.asarray(train(name, task_grads)[0], np.float64)[: task_grads.shape[1]]
    assert distance_to_span(update, task_grads.astype(np.float64)) > 1e-2


@pytest.mark.parametrize("name", row_methods("permutation"))
def test_relabelling_tasks_does_not_move_the_update(name):
    for num_tasks in sizes_for(ROW_METHODS[name]):
        steps = rotations(draw("gaussian", num_tasks))
        order = np.random.default_rng(1).permutation(num_tasks)
        expected = np.asarray(train(name, *steps)[0])
        actual = np.asarray(train(name, *(rows[order] for rows in steps))[0])
        assert np.linalg.norm(actual - expected) <= 1e-5 * np.linalg.norm(expected), num_tasks


@pytest.mark.parametrize("name", row_methods())
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_bfloat16_leaves_keep_their_dtype_at_every_scale(name, scale):
    num_tasks = sizes_for(ROW_METHODS[name])[-1]
    update, _ = train(name, draw("gaussian", num_tasks) * np.float32(scale), dtype=jnp.bfloat16)
    assert update.dtype == jnp.bfloat16
    assert np.all(np.isfinite(update.astype(jnp.float32)))
    assert np.any(update != 0)
