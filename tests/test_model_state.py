"""Batch statistics and dropout in every framework: what a forward pass changes leaves as auxiliary data, once a step.

The learning rate is zero, so that losses differ between two steps only if other units are dropped.
"""

import equinox
import flax.linen
import flax.nnx
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtlgrad_jax as mtl

pytestmark = pytest.mark.standard_promotion

RNG = np.random.default_rng(0)
X = jnp.asarray(1 + RNG.standard_normal((32, 6)), jnp.float32)
Y = jnp.asarray(RNG.standard_normal((2, 32)), jnp.float32)
TX = optax.chain(mtl.mgda(num_tasks=2), optax.sgd(0.0))
KEYS = jax.random.split(jax.random.key(0), 3)


def losses_of(outputs):
    return jnp.mean((outputs - Y) ** 2, axis=1)


def linen():
    class Network(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            hidden = flax.linen.BatchNorm(use_running_average=False)(flax.linen.Dense(16)(x))
            hidden = flax.linen.Dropout(0.5, deterministic=False)(flax.linen.relu(hidden))
            return flax.linen.Dense(2)(hidden).T

    model = Network()
    variables = jax.jit(model.init)({"params": KEYS[1], "dropout": KEYS[2]}, X)
    params, statistics = variables["params"], variables["batch_stats"]

    def losses_fn(params, statistics, key):
        variables = {"params": params, "batch_stats": statistics}
        outputs, changed = model.apply(variables, X, rngs={"dropout": key}, mutable=["batch_stats"])
        return losses_of(outputs), changed["batch_stats"]

    @jax.jit
    def step(carry, key):
        params, statistics, opt_state = carry
        (losses, statistics), task_grads = mtl.task_value_and_grad(losses_fn, has_aux=True)(params, statistics, key)
        updates, opt_state = TX.update(task_grads, opt_state, params)
        return (optax.apply_updates(params, updates), statistics, opt_state), losses

    return (
        (params, statistics, TX.init(params)),
        step,
        lambda carry: carry[1],
        lambda key: losses_fn(params, statistics, key)[1],
    )


def of_haiku():
    def network(x):
        hidden = haiku.BatchNorm(True, True, 0.9)(haiku.Linear(16)(x), is_training=True)
        hidden = haiku.dropout(haiku.next_rng_key(), 0.5, jax.nn.relu(hidden))
        return haiku.Linear(2)(hidden).T

    model = haiku.transform_with_state(network)
    params, start = jax.jit(model.init)(KEYS[1], 2 * X)

    def losses_fn(params, state, key):
        outputs, state = model.apply(params, state, key, X)
        return losses_of(outputs), state

    @jax.jit
    def step(carry, key):
        params, state, opt_state = carry
        (losses, state), task_grads = mtl.task_value_and_grad(losses_fn, has_aux=True)(params, state, key)
        updates, opt_state = TX.update(task_grads, opt_state, params)
        return (optax.apply_updates(params, updates), state, opt_state), losses

    return (params, start, TX.init(params)), step, lambda carry: carry[1], lambda key: losses_fn(params, start, key)[1]


class EquinoxNetwork(equinox.Module):
    trunk: equinox.nn.Linear
    norm: equinox.nn.BatchNorm
    dropout: equinox.nn.Dropout
    heads: equinox.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key)
        self.trunk = equinox.nn.Linear(6, 16, key=keys[0])
        self.norm = equinox.nn.BatchNorm(16, "batch", mode="ema")
        self.dropout = equinox.nn.Dropout(0.5)
        self.heads = equinox.nn.Linear(16, 2, key=keys[1])

    def __call__(self, x, state, key):
        hidden, state = self.norm(self.trunk(x), state)
        return self.heads(self.dropout(jax.nn.relu(hidden), key=key)), state


def of_equinox():
    model, start = equinox.nn.make_with_state(EquinoxNetwork)(KEYS[1])

    def losses_fn(model, state, key):
        forward = jax.vmap(model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
        outputs, state = forward(X, state, jax.random.split(key, len(X)))
        return losses_of(outputs.T), state

    @equinox.filter_jit
    def step(carry, key):
        model, state, opt_state = carry
        (losses, state), task_grads = mtl.task_value_and_grad(losses_fn, has_aux=True)(model, state, key)
        updates, opt_state = TX.update(task_grads, opt_state, equinox.filter(model, equinox.is_inexact_array))
        return (equinox.apply_updates(model, updates), state, opt_state), losses

    opt_state = TX.init(equinox.filter(model, equinox.is_inexact_array))
    return (model, start, opt_state), step, lambda carry: carry[1], lambda key: losses_fn(model, start, key)[1]


class NnxNetwork(flax.nnx.Module):
    def __init__(self, rngs):
        self.trunk = flax.nnx.Linear(6, 16, rngs=rngs)
        self.norm = flax.nnx.BatchNorm(16, rngs=rngs)
        self.dropout = flax.nnx.Dropout(0.5, rngs=rngs)
        self.heads = flax.nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        return self.heads(self.dropout(jax.nn.relu(self.norm(self.trunk(x))))).T


def of_nnx():
    """Streams of random numbers are part of the model, so no key is handed on."""
    nnx = flax.nnx
    model = NnxNetwork(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, TX, wrt=nnx.Param)

    @nnx.jit
    def train(model, optimizer):
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def losses_fn(params):
            it = nnx.merge(graph, params, rest, copy=True)
            return losses_of(it(X)), nnx.state(it, nnx.Not(nnx.Param))

        (losses, rest), task_grads = mtl.task_value_and_grad(losses_fn, has_aux=True)(params)
        nnx.update(model, rest)
        optimizer.update(model, task_grads)
        return losses

    def step(carry, key):
        return carry, train(*carry)

    def forward(key):
        reference = NnxNetwork(nnx.Rngs(0))
        reference(X)
        return state_of((reference, None))

    state_of = lambda carry: jax.tree.map(jnp.copy, nnx.state(carry[0], nnx.BatchStat))
    return (model, optimizer), step, state_of, forward


@pytest.mark.parametrize("framework", [linen, of_haiku, of_equinox, of_nnx])
def test_statistics_move_as_in_one_forward_pass_and_other_units_are_dropped_in_every_step(framework):
    carry, step, state_of, forward = framework()
    start, expected = jax.tree.leaves(state_of(carry)), jax.tree.leaves(forward(KEYS[0]))
    carry, first = step(carry, KEYS[0])
    moved = jax.tree.leaves(state_of(carry))
    for old, new, once in zip(start, moved, expected, strict=True):
        np.testing.assert_allclose(new, once, rtol=1e-5, atol=1e-6)
        assert np.any(np.asarray(old) != np.asarray(new))
    carry, second = step(carry, KEYS[1])
    assert np.all(np.abs(first - second) > 1e-3 * first)
    assert any(np.any(old != new) for old, new in zip(moved, jax.tree.leaves(state_of(carry)), strict=True))


def test_tasks_with_batches_of_their_own_average_their_statistics():
    """Each forward pass starts from the same statistics; their mean is that of one pass over batches of one size."""
    norm = flax.linen.BatchNorm(use_running_average=False, momentum=0.5)
    batches = {"near": X, "far": 3 + 2 * X}
    variables = norm.init(KEYS[0], X)

    def loss_fn(params, batch):
        outputs, changed = norm.apply(variables | {"params": params}, batch, mutable=["batch_stats"])
        return jnp.mean(outputs**2), changed["batch_stats"]

    task_fn = mtl.separate_value_and_grad({"near": loss_fn, "far": loss_fn}, has_aux=True)
    (_, statistics), task_grads = jax.jit(task_fn)(variables["params"], batches)
    merged = jax.tree.map(lambda *each: sum(each) / len(each), *statistics.values())
    np.testing.assert_allclose(merged["mean"], 0.5 * np.mean([X.mean(0), 3 + 2 * X.mean(0)], axis=0), rtol=1e-5)
    assert task_grads["scale"].shape == (2, 6)
