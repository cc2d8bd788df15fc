"""Tasks with batches of their own, and heads that one task owns."""

import jax
import jax.numpy as jnp
import optax
import pytest

import mtlgrad_jax as mtl

BATCHES = {
    "digit": (jax.random.normal(jax.random.key(0), (8, 6)), jax.random.normal(jax.random.key(1), (8, 2))),
    "depth": (jax.random.normal(jax.random.key(2), (5, 6)), jax.random.normal(jax.random.key(3), (5, 1))),
}
PARAMS = {
    "trunk": jax.random.normal(jax.random.key(4), (6, 4)),
    "digit": jax.random.normal(jax.random.key(5), (4, 2)),
    "depth": jax.random.normal(jax.random.key(6), (4, 1)),
    "step": jnp.arange(3),
}


def loss_of(name):
    def loss_fn(params, batch):
        x, y = batch
        return jnp.mean((jnp.tanh(x @ params["trunk"]) @ params[name] - y) ** 2)

    return loss_fn


LOSSES = {"digit": loss_of("digit"), "depth": loss_of("depth")}


def plain(name):
    floats = {key: value for key, value in PARAMS.items() if key != "step"}
    return jax.grad(lambda floats: LOSSES[name](dict(PARAMS, **floats), BATCHES[name]))(floats)


def test_rows_are_the_plain_gradients():
    losses, task_grads = jax.jit(mtl.separate_value_and_grad(LOSSES))(PARAMS, BATCHES)
    for row, name in enumerate(LOSSES):
        assert jnp.allclose(losses[row], LOSSES[name](PARAMS, BATCHES[name]))
        for leaf, wanted in plain(name).items():
            assert jnp.allclose(task_grads[leaf][row], wanted, rtol=1e-5, atol=1e-6)
    assert jnp.array_equal(task_grads["step"], jnp.zeros((2, 3), jnp.int32))
    assert jnp.all(task_grads["digit"][1] == 0) and jnp.all(task_grads["depth"][0] == 0)


def test_a_list_and_a_dict_in_any_order_mean_the_same():
    by_name = mtl.separate_value_and_grad(LOSSES)(PARAMS, dict(reversed(BATCHES.items())))
    by_position = mtl.separate_value_and_grad(list(LOSSES.values()))(PARAMS, list(BATCHES.values()))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, by_name, by_position))


def test_auxiliary_data_comes_back_in_the_same_container():
    loss_fns = {name: lambda params, batch, name=name: (LOSSES[name](params, batch), name) for name in LOSSES}
    (losses, aux), _ = mtl.separate_value_and_grad(loss_fns, has_aux=True)(PARAMS, BATCHES)
    assert losses.shape == (2,)
    assert aux == {"digit": "digit", "depth": "depth"}


@pytest.mark.standard_promotion
def test_shared_leaves_are_aggregated_and_heads_get_their_own_gradient():
    params = {key: value for key, value in PARAMS.items() if key != "step"}
    labels = {"trunk": "shared", "digit": "heads", "depth": "heads"}
    tx = optax.partition({"shared": mtl.mgda(num_tasks=2), "heads": mtl.sum()}, labels)
    _, task_grads = mtl.separate_value_and_grad(LOSSES)(params, BATCHES)
    update, state = jax.jit(tx.update)(task_grads, tx.init(params), params)
    trunk = task_grads["trunk"].reshape(2, -1)
    assert jnp.allclose(update["trunk"].reshape(-1), mtl.weightings.mgda(trunk @ trunk.T) @ trunk, atol=1e-6)
    for name in LOSSES:
        assert jnp.allclose(update[name], plain(name)[name], rtol=1e-5, atol=1e-6)
    assert state.inner_states["shared"].inner_state.gram.shape == (2, 2)


def test_errors_are_sentences():
    with pytest.raises(ValueError, match="at least one loss function"):
        mtl.separate_value_and_grad([])
    with pytest.raises(ValueError, match=r"expected one batch for each of the tasks \['digit', 'depth'\]"):
        mtl.separate_value_and_grad(LOSSES)(PARAMS, {"digit": BATCHES["digit"]})
    with pytest.raises(ValueError, match="expected one batch for each of the tasks 2, got 1"):
        mtl.separate_value_and_grad(list(LOSSES.values()))(PARAMS, [BATCHES["digit"]])
    with pytest.raises(ValueError, match=r"expected a scalar loss from each function, got shape \(8, 6\)"):
        mtl.separate_value_and_grad([lambda params, batch: batch[0]])(PARAMS, [BATCHES["digit"]])
