"""One row per example: corners, weights, memory, and a use."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import per_example, stacked

X = jax.random.normal(jax.random.key(0), (7, 5))
PARAMS = {"w": jax.random.normal(jax.random.key(1), (5, 3)), "step": jnp.arange(2), "none": None}


def loss_fn(params, example):
    return jnp.sum(jnp.tanh(example @ params["w"]) ** 2)


def all_losses(params):
    return jax.vmap(loss_fn, (None, 0))(params, X)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 32, None])
def test_chunk_size_changes_nothing(chunk_size):
    losses, jac = per_example.linearize(loss_fn, PARAMS, X, chunk_size=chunk_size)
    wanted_losses, task_grads = mtl.task_value_and_grad(all_losses)(PARAMS)
    wanted = stacked.gram(task_grads)
    assert jnp.allclose(losses, wanted_losses)
    assert jnp.allclose(jac.gram(), wanted, rtol=1e-5, atol=1e-6)
    assert isinstance(jac, mtl.typing.Jacobian)


def test_combination_is_the_gradient_of_the_weighted_loss():
    _, jac = per_example.linearize(loss_fn, PARAMS, X)
    weights = jnp.arange(7.0) - 2
    wanted = jax.grad(lambda w: jnp.sum(weights * all_losses(dict(PARAMS, w=w))))(PARAMS["w"])
    update = jac.combine(weights)
    assert jnp.allclose(update["w"], wanted, rtol=1e-5)
    assert jnp.array_equal(update["step"], jnp.zeros(2, jnp.int32))


@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1e15, 1e25])
def test_a_common_scale_leaves_range_for_no_product(scale):
    _, jac = per_example.linearize(lambda params, x: loss_fn(params, x) * scale, PARAMS, X, chunk_size=3)
    _, task_grads = mtl.task_value_and_grad(lambda params: all_losses(params) * scale)(PARAMS)
    (gram, exponent), (wanted, wanted_exponent) = jac.scaled_gram(), stacked.scaled_gram(task_grads)
    gram = np.ldexp(np.asarray(gram, float), 2 * (int(exponent) - int(wanted_exponent)))
    assert np.allclose(gram, wanted, rtol=1e-5, atol=1e-5 * np.max(wanted))


def test_one_example_and_an_example_without_gradient():
    _, jac = per_example.linearize(loss_fn, PARAMS, X[:1])
    assert jac.gram().shape == (1, 1)
    _, jac = per_example.linearize(loss_fn, PARAMS, X * jnp.array([0.0, 1, 1, 1, 1, 1, 1])[:, None], chunk_size=2)
    assert jnp.all(jac.gram()[0] == 0)
    assert jnp.all(jnp.diagonal(jac.gram())[1:] > 0)


def test_guided_masking_without_storing_a_gradient():
    """Keep the noisy examples whose gradient agrees with that of a clean example, here example 0."""
    losses, jac = per_example.linearize(loss_fn, PARAMS, X, chunk_size=2)
    weights = mtl.weightings.guided_masking(jac.gram())
    _, task_grads = mtl.task_value_and_grad(all_losses)(PARAMS)
    tx = mtl.guided_masking()
    wanted, _ = tx.update(task_grads, tx.init(PARAMS), PARAMS)
    assert jnp.allclose(jac.combine(weights)["w"], wanted["w"], rtol=1e-4, atol=1e-6)


def test_errors_are_sentences():
    with pytest.raises(ValueError, match="one common leading axis"):
        per_example.linearize(loss_fn, PARAMS, (X, X[:3]))
    with pytest.raises(ValueError, match="one common leading axis"):
        per_example.linearize(loss_fn, PARAMS, jnp.float32(1))
    with pytest.raises(ValueError, match="expected one scalar loss per example"):
        per_example.linearize(lambda params, x: x @ params["w"], PARAMS, X)
    with pytest.raises(ValueError, match="at least 1 example"):
        per_example.linearize(loss_fn, PARAMS, X, chunk_size=0)
