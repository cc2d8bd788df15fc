"""L2 without a coefficient: against Optax's half-space projection, and its place in the chain."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtlgrad_jax as mtl


def draw(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in (("w", (3, 4)), ("b", (4,)))}


def inner(a, b):
    return sum(float(jnp.sum(x * y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@jax.jit  # without it a step compiles its loops anew
def project(grads, params):
    tx = mtl.relu_l2_project()
    return tx.update(grads, tx.init(params), params)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("seed", range(10))
def test_equals_the_half_space_projection_of_optax(seed):
    grads, params = draw(seed), draw(seed + 100)
    actual, _ = project(grads, params)
    expected = optax.projections.projection_halfspace(grads, jax.tree.map(jnp.negative, params), 0.0)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_the_step_never_lengthens_the_parameters_to_first_order(scale):
    changed = 0
    for seed in range(20):
        grads, params = jax.tree.map(lambda leaf: leaf * scale, draw(seed)), draw(seed + 100)
        update, _ = project(grads, params)
        size = np.sqrt(inner(grads, grads) * inner(params, params))
        assert inner(update, params) >= -1e-6 * size
        changed += inner(grads, params) < 0
    assert 0 < changed < 20


def test_per_leaf_projects_every_leaf_on_its_own():
    grads, params = draw(0), draw(3)
    tx = mtl.relu_l2_project(scope="leaf")
    update, _ = tx.update(grads, tx.init(params), params)
    for name in params:
        alone = mtl.relu_l2_project()
        expected, _ = alone.update({name: grads[name]}, alone.init(None), {name: params[name]})
        np.testing.assert_allclose(update[name], expected[name], rtol=1e-6)


def test_masked_leaves_take_no_part():
    grads, params = draw(1), jax.tree.map(jnp.negative, draw(1))
    tx = optax.masked(mtl.relu_l2_project(), {"w": True, "b": False})
    update, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(update["b"], grads["b"])
    np.testing.assert_allclose(update["w"], 0, atol=1e-6)


def test_zero_parameters_leave_the_gradient_alone():
    grads = draw(0)
    params = jax.tree.map(jnp.zeros_like, grads)
    for scope in ("tree", "leaf"):
        tx = mtl.relu_l2_project(scope=scope)
        update, _ = tx.update(grads, tx.init(params), params)
        chex.assert_trees_all_equal(update, grads)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_its_dtype_and_the_accuracy_of_float32(dtype):
    grads, params = draw(0, dtype), jax.tree.map(jnp.negative, draw(0, dtype))
    update, _ = mtl.relu_l2_project().update(grads, optax.EmptyState(), params)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(update))
    assert all(np.all(np.abs(np.asarray(leaf, np.float32)) < 0.02) for leaf in jax.tree.leaves(update))


@pytest.mark.standard_promotion
def test_decoupled_differs_from_coupled_and_is_the_convenience_optimizer():
    params = draw(5)
    grads = jax.tree.map(lambda g, p: g - 2 * p, draw(6), params)
    coupled = optax.chain(mtl.relu_l2_project(), optax.adam(0.1))
    decoupled = optax.chain(optax.scale_by_adam(), mtl.relu_l2_project(), optax.scale_by_learning_rate(0.1))
    convenient = mtl.adam_relu_l2(0.1)
    updates = []
    for tx in (coupled, decoupled, convenient):
        state, current = tx.init(params), params
        for _ in range(3):
            update, state = tx.update(grads, state, current)
            current = optax.apply_updates(current, update)
        updates.append(current)
    chex.assert_trees_all_close(updates[1], updates[2], rtol=1e-6)
    assert not np.allclose(updates[0]["w"], updates[1]["w"])
    step, _ = convenient.update(grads, convenient.init(params), params)
    assert inner(step, params) <= 1e-6
    assert inner(optax.adam(0.1).update(grads, optax.adam(0.1).init(params))[0], params) > 1e-3


@pytest.mark.standard_promotion
def test_convenience_optimizer_takes_a_schedule_and_a_mask():
    params, grads = draw(5), jax.tree.map(lambda p: -p, draw(5))
    tx = mtl.adam_relu_l2(optax.constant_schedule(0.1), mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree))
    update, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(np.abs(update["b"]), 0.1, rtol=1e-4)
    assert inner({"w": update["w"]}, {"w": params["w"]}) <= 1e-5


def test_without_params_it_says_so():
    with pytest.raises(ValueError, match=r"expected params, got None; call tx.update\(updates, state, params\)"):
        mtl.relu_l2_project().update(draw(0), optax.EmptyState())
    with pytest.raises(ValueError, match="expected scope to be one of tree, leaf, got 'all'"):
        mtl.relu_l2_project(scope="all")
