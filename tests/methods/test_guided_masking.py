"""Noisy examples are kept when their gradient agrees with the clean one."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtlgrad_jax as mtl

ROWS = np.array([[1.0, 0.0], [2.0, 1.0], [-1.0, 3.0], [1.0, -5.0], [0.0, 7.0]], np.float32)


def masked_mean(rows):
    kept = [row for row in rows[1:] if row @ rows[0] > 0]
    return (np.mean(kept, axis=0) if kept else 0 * rows[0]), len(kept)


@pytest.mark.parametrize("seed", range(3))
def test_the_update_is_the_mean_of_the_examples_that_agree(seed):
    rows = np.random.default_rng(seed).standard_normal((30, 5)).astype(np.float32)
    tx = mtl.guided_masking(num_tasks=30)
    update, state = tx.update(jnp.asarray(rows), tx.init(jnp.zeros(5)), jnp.zeros(5))
    expected, num_kept = masked_mean(rows)
    np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-6)
    assert state.memory.num_kept == num_kept
    assert 5 < num_kept < 25
    assert update @ rows[0] > 0


def test_a_right_angle_does_not_agree():
    np.testing.assert_allclose(mtl.weightings.guided_masking(jnp.asarray(ROWS @ ROWS.T)), [0, 0.5, 0, 0.5, 0])


def test_the_clean_gradient_may_take_part():
    weights = mtl.weightings.guided_masking(jnp.asarray(ROWS @ ROWS.T), clean_weight=2.0)
    np.testing.assert_allclose(weights, [2, 0.5, 0, 0.5, 0])
    tx = mtl.guided_masking(num_tasks=2, clean_weight=2.0)
    update, state = tx.update(jnp.array([[1.0], [-1.0]]), tx.init(jnp.zeros(1)))
    np.testing.assert_allclose(update, [2])
    assert state.memory.num_kept == 0


@pytest.mark.parametrize(
    "rows",
    [
        [[1.0, 0.0], [-1.0, 0.0], [-3.0, 1.0]],
        [[0.0, 0.0], [1.0, 0.0], [-3.0, 1.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[1.0, 2.0]],
    ],
)
def test_nothing_kept_is_a_zero_update(rows):
    rows = jnp.array(rows)
    tx = mtl.guided_masking(num_tasks=len(rows))
    update, state = tx.update(rows, tx.init(rows[0]), rows[0])
    np.testing.assert_array_equal(update, 0)
    assert state.memory.num_kept == 0


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_units_do_not_matter(scale):
    tx = mtl.guided_masking()
    rows = jnp.asarray(ROWS) * jnp.float32(scale)
    update, _ = tx.update(rows, tx.init(rows[0]), rows[0])
    np.testing.assert_allclose(update / jnp.float32(scale), masked_mean(ROWS)[0], rtol=1e-5)


def test_state_keeps_its_structure_and_works_in_a_chain_under_jit():
    tx = optax.chain(mtl.guided_masking(num_tasks=5), optax.sgd(0.5))
    params = jnp.zeros(2)
    start = tx.init(params)
    updates, state = jax.jit(tx.update)(jnp.asarray(ROWS), start, params)
    np.testing.assert_allclose(updates, -0.5 * masked_mean(ROWS)[0])
    assert jax.tree.structure(state) == jax.tree.structure(start)
    for new, old in zip(jax.tree.leaves(state), jax.tree.leaves(start), strict=True):
        assert (new.shape, new.dtype, new.weak_type) == (old.shape, old.dtype, old.weak_type)


def test_a_step_that_is_not_finite_can_be_skipped_and_single_examples_dropped():
    tx = mtl.guided_masking(num_tasks=5, nonfinite="skip")
    state = tx.init(jnp.zeros(2))
    _, state = tx.update(jnp.asarray(ROWS), state)
    update, state = tx.update(jnp.asarray(ROWS).at[2, 0].set(jnp.nan), state)
    np.testing.assert_array_equal(update, 0)
    assert state.memory.num_kept == 2  # of the last step that counted
    tx = mtl.guided_masking(num_tasks=5, nonfinite="drop_task")
    update, state = tx.update(jnp.asarray(ROWS).at[1, 0].set(jnp.nan), tx.init(jnp.zeros(2)))
    np.testing.assert_allclose(update, masked_mean(np.delete(ROWS, 1, axis=0))[0])
    np.testing.assert_array_equal(state.weights[1], 0)
    assert state.memory.num_kept == 1


def test_examples_with_wrong_labels_are_the_ones_left_out():
    """Logistic regression with 40 % of the labels turned: the mask finds most of them early on."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((200, 4)), jnp.float32)
    y = jnp.sign(x[:, 0] + 0.2 * x[:, 1])
    wrong = jnp.asarray(rng.random(180) < 0.4)
    noisy = jnp.where(wrong, -y[:180], y[:180])

    def loss(params, x, y):
        return jnp.mean(jax.nn.softplus(-y * (x @ params)))

    params = jnp.zeros(4)
    rows = jax.vmap(jax.grad(loss), (None, 0, 0))(params, x[:180, None], noisy[:, None])
    clean = jax.grad(loss)(params, x[180:], y[180:])
    tx = mtl.guided_masking(num_tasks=181)
    _, state = tx.update(jnp.concatenate([clean[None], rows]), tx.init(params), params)
    kept = state.weights[1:] > 0
    assert jnp.mean(kept[~wrong]) > 0.7
    assert jnp.mean(kept[wrong]) < 0.3
