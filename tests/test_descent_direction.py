"""Losses, direction and evidence in one call."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import matrix_free, shared_encoder

METHODS = pytest.mark.parametrize(
    "method",
    ["stacked", "matrix_free", partial(matrix_free.linearize, mode="reverse", chunk_size=2)],
    ids=["stacked", "matrix_free", "function"],
)
X = jax.random.normal(jax.random.key(0), (16, 6))
Y = jax.random.normal(jax.random.key(1), (16, 4))
PARAMS = {"trunk": jax.random.normal(jax.random.key(2), (6, 5)), "heads": jax.random.normal(jax.random.key(3), (5, 4))}


def losses_fn(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["trunk"]) @ params["heads"] - y) ** 2, axis=0)


@METHODS
def test_agrees_with_the_transformation(method):
    losses, update, info = jax.jit(
        lambda params: mtl.descent_direction(losses_fn, params, mtl.weightings.mgda, X, Y, method=method)
    )(PARAMS)
    wanted_losses, task_grads = mtl.task_value_and_grad(losses_fn)(PARAMS, X, Y)
    tx = mtl.mgda(num_tasks=4)
    wanted, state = tx.update(task_grads, tx.init(PARAMS), PARAMS)
    assert jnp.allclose(losses, wanted_losses)
    assert jnp.allclose(info.gram, state.gram, rtol=1e-5, atol=1e-6)
    assert jnp.allclose(info.weights, state.weights, atol=1e-5)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-4, atol=1e-5), update, wanted))
    assert info.gap < 1e-5


@METHODS
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_weights_with_a_unit_reach_the_update(method, scale):
    """Inverse-norm weights are 1/‖gᵢ‖: the update does not depend on the scale of the losses."""
    weighting = partial(mtl.weightings.mgda, normalization="l2")
    _, wanted, _ = mtl.descent_direction(losses_fn, PARAMS, weighting, X, Y)
    _, update, info = mtl.descent_direction(
        lambda *args: losses_fn(*args) * scale, PARAMS, weighting, X, Y, method=method
    )
    assert info.log2_scale != 0
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-3, atol=1e-5), update, wanted))


@METHODS
def test_the_weighting_sees_losses_and_auxiliary_data_comes_back(method):
    (losses, aux), _, info = mtl.descent_direction(
        lambda *args: (losses_fn(*args), "aux"),
        PARAMS,
        partial(mtl.weightings.mgda, normalization="loss"),
        X,
        Y,
        method=method,
        has_aux=True,
    )
    assert aux == "aux"
    assert losses.shape == info.weights.shape == (4,)


@METHODS
def test_a_method_with_memory_is_scanned(method):
    weighting = mtl.weightings.pcd()

    def step(carry, _):
        params, memory = carry
        losses, update, info = mtl.descent_direction(losses_fn, params, weighting, X, Y, method=method, memory=memory)
        return (optax.apply_updates(params, jax.tree.map(lambda leaf: -0.1 * leaf, update)), info.memory), losses

    _, losses = lax.scan(step, (PARAMS, weighting.init(4)), length=30)
    assert losses[-1, 0] < 0.8 * losses[0, 0]


@pytest.mark.standard_promotion
@METHODS
def test_trains_with_a_plain_optimiser(method):
    tx = optax.adam(0.03)

    def step(carry, _):
        params, state = carry
        losses, update, _ = mtl.descent_direction(losses_fn, params, mtl.weightings.upgrad, X, Y, method=method)
        updates, state = tx.update(update, state, params)
        return (optax.apply_updates(params, updates), state), losses

    _, losses = lax.scan(step, (PARAMS, tx.init(PARAMS)), length=100)
    assert jnp.all(losses[-1] < losses[0])


def test_the_encoder_below_all_tasks_is_a_method_too():
    def split(losses_fn, params, *args, has_aux):
        return shared_encoder.linearize(
            lambda trunk, x, y: jnp.tanh(x @ trunk),
            lambda heads, hidden, x, y: jnp.mean((hidden @ heads - y) ** 2, axis=0),
            (params["trunk"], params["heads"]),
            *args,
            has_aux=has_aux,
        )

    losses, update, info = mtl.descent_direction(losses_fn, PARAMS, mtl.weightings.mgda, X, Y, method=split)
    assert jnp.allclose(losses, losses_fn(PARAMS, X, Y))
    assert update[0].shape == PARAMS["trunk"].shape
    assert info.gap < 1e-5


def test_an_unknown_method_is_named():
    with pytest.raises(
        ValueError, match="expected method to be one of stacked, matrix_free, .* or a function, got 'fast'"
    ):
        mtl.descent_direction(losses_fn, PARAMS, mtl.weightings.mgda, X, Y, method="fast")
