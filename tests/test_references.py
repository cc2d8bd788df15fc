"""What is remembered from a first step, and what is divided by a loss: a bad one is no fault for ever."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtlgrad_jax as mtl

ROWS = jnp.eye(2)
NUM_STEPS = 30


def gradnorm_in_numpy(learning_rate=0.1, alpha=1.5):
    """Return the weights of the last step, with the first losses of both tasks as references."""
    weights, first = np.ones(2), np.array([2.0, 4.0])
    for step in range(NUM_STEPS):
        used, mean = weights, weights.mean()  # the gradients are one long
        ratio = np.array([2.0, 4 * 0.8**step]) / first
        slope = np.sign(weights / mean - (ratio / ratio.mean()) ** alpha) / mean
        weights = np.maximum(weights - learning_rate * slope, 0)
        weights = weights * 2 / weights.sum()
    return used


@functools.cache
def gradnorm(nonfinite):
    tx = mtl.gradnorm(2, optimizer=optax.sgd(0.1), nonfinite=nonfinite)
    return tx.init(jnp.ones(2)), jax.jit(tx.update)


@pytest.mark.parametrize("nonfinite", ["propagate", "skip", "drop_task"])
@pytest.mark.parametrize("loss", [np.nan, np.inf, 0.0, -1.0])
def test_gradnorm_takes_the_first_loss_that_is_one(loss, nonfinite):
    start, update = gradnorm(nonfinite)
    _, state = update(jnp.zeros((2, 2)), start, losses=np.float32([2.0, loss]))
    for step in range(NUM_STEPS):
        _, state = update(ROWS, state, losses=np.float32([2.0, 4 * 0.8**step]))
    np.testing.assert_allclose(state.memory.initial_losses, [2, 4])
    np.testing.assert_allclose(state.weights, gradnorm_in_numpy(), rtol=1e-4, atol=1e-4)


def test_gradnorm_knows_no_loss_of_a_task_that_was_dropped():
    start, update = gradnorm("drop_task")
    _, state = update(ROWS.at[1].set(jnp.nan), start, losses=np.float32([2.0, np.nan]))
    np.testing.assert_array_equal(state.memory.initial_losses, [2, 0])
    for step in range(NUM_STEPS):
        _, state = update(ROWS, state, losses=np.float32([2.0, 4 * 0.8**step]))
    np.testing.assert_allclose(state.weights, gradnorm_in_numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalization", ["loss", "loss+"])
@pytest.mark.parametrize("loss", [0.0, -0.1, np.inf, np.nan])
def test_mgda_leaves_out_a_task_that_cannot_be_divided_by_its_loss(normalization, loss):
    rows = jnp.array([[1.0, 0.0], [-0.2, 1.0]])
    tx = mtl.mgda(2, normalization=normalization)
    update, state = tx.update(rows, tx.init(jnp.zeros(2)), losses=jnp.array([loss, 2.0]))
    expected = 0.5 if normalization == "loss" else 0.5 / np.hypot(0.2, 1)
    np.testing.assert_allclose(state.weights, [0, expected], rtol=1e-6)
    np.testing.assert_allclose(update, expected * rows[1], rtol=1e-6)
    assert state.gap > 0.05  # it is hurt
    update, state = tx.update(rows, tx.init(jnp.zeros(2)), losses=jnp.array([loss, -1.0]))
    assert not np.any(update) and np.isinf(state.gap)


@pytest.mark.parametrize("size", [1e-36, 1.0, 1e36])
def test_the_unit_of_the_losses_changes_the_length_only(size):
    rows, losses = jnp.array([[1.0, 0.0], [-0.2, 1.0]]), np.array([1.0, 2.0])
    expected = mtl.weightings.mgda(rows @ rows.T, normalization="loss", losses=losses)
    weights = mtl.weightings.mgda(rows @ rows.T, normalization="loss", losses=jnp.asarray(losses * size, jnp.float32))
    np.testing.assert_allclose(np.asarray(weights, np.float64) * size, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_dwa_leaves_a_loss_that_is_none_out_of_its_mean(loss):
    weighting = mtl.weightings.dwa(steps_per_period=2)
    state, other = weighting.init(2), weighting.init(2)
    for step in range(8):
        losses = [4.0, 2.0 * 0.8**step]
        again = [4.0, losses[1] if step % 2 == 0 else 2.0 * 0.8 ** (step - 1)]
        broken = [4.0, losses[1] if step % 2 == 0 else loss]
        weights, state = weighting.update(jnp.eye(2), state, losses=jnp.array(broken))
        expected, other = weighting.update(jnp.eye(2), other, losses=jnp.array(again))
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


def test_excess_mtl_and_bloop_begin_when_a_task_does():
    rows = jnp.array([[1.0, 0.0], [0.5, 1.0]])
    late = jnp.array([True, False])
    excess = mtl.excess_mtl(2, learning_rate=1.0)
    _, state = excess.update(rows, excess.init(rows[0]), present=late)
    assert state.memory.initial_excess[1] == 0
    _, state = excess.update(rows, state)
    assert state.memory.initial_excess[1] > 0
    bloop = mtl.bloop(2)
    _, state = bloop.update(rows, bloop.init(rows[0]), present=~late)
    assert not state.memory.started
    _, state = bloop.update(rows, state)
    np.testing.assert_array_equal(state.memory.average, rows[0])
