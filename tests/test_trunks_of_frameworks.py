"""A trunk and heads in every framework: found in the program of the losses, and followed by its optimiser."""

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
X, Y = (jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in ((16, 6), (3, 16)))


def linen():
    class Network(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, x):
            hidden = flax.linen.relu(
                flax.linen.BatchNorm(use_running_average=True)(flax.linen.Dense(4, name="trunk")(x))
            )
            return [flax.linen.Dense(1, name=f"head_{i}")(hidden)[:, 0] for i in range(3)]

    variables = jax.jit(Network().init)(jax.random.key(0), X)
    return variables["params"], lambda params: Network().apply(variables | {"params": params}, X)


class NnxNetwork(flax.nnx.Module):
    def __init__(self, rngs):
        self.trunk = flax.nnx.Linear(6, 4, rngs=rngs)
        self.head_0, self.head_1, self.head_2 = (flax.nnx.Linear(4, 1, rngs=rngs) for _ in range(3))

    def __call__(self, x):
        hidden = jax.nn.gelu(self.trunk(x))
        return [head(hidden)[:, 0] for head in (self.head_0, self.head_1, self.head_2)]


def nnx():
    graph, params = flax.nnx.split(NnxNetwork(flax.nnx.Rngs(0)), flax.nnx.Param)
    return params, lambda params: flax.nnx.merge(graph, params)(X)


def of_haiku():
    def network(x):
        hidden = jax.nn.relu(haiku.Linear(4, name="trunk")(x))
        return [haiku.Linear(1, name=f"head_{i}")(hidden)[:, 0] for i in range(3)]

    model = haiku.without_apply_rng(haiku.transform(network))
    return jax.jit(model.init)(jax.random.key(0), X), lambda params: model.apply(params, X)


def of_equinox():
    class Network(equinox.Module):
        trunk: equinox.nn.MLP
        head_list: list[equinox.nn.Linear]

        def __call__(self, x):
            return [head(self.trunk(x))[0] for head in self.head_list]

    keys = jax.random.split(jax.random.key(0), 4)
    heads = [equinox.nn.Linear(4, 1, key=key) for key in keys[1:]]
    model = Network(equinox.nn.MLP(6, 4, 5, 1, key=keys[0]), heads)
    return model, lambda model: jax.vmap(model)(X)


@pytest.mark.parametrize("model", [linen, nnx, of_haiku, of_equinox])
def test_the_heads_of_every_framework_are_found(model):
    params, apply = model()
    losses_fn = lambda params: jnp.mean((jnp.stack(apply(params)) - Y) ** 2, axis=1)
    mask = mtl.shared_leaves(losses_fn, params)
    found = {jax.tree_util.keystr(path): shared for path, shared in jax.tree_util.tree_leaves_with_path(mask)}
    assert found and all(shared == ("head" not in path) for path, shared in found.items()), found
    tx = optax.chain(mtl.trunk_and_heads(mtl.mgda(3), mask), optax.adam(1e-2))
    filtered = equinox.filter(params, equinox.is_inexact_array) if model is of_equinox else params
    losses, rows = mtl.task_value_and_grad(losses_fn)(params)
    updates, _ = jax.jit(tx.update)(rows, tx.init(filtered), filtered)
    assert np.all(losses_fn(equinox.apply_updates(params, updates)) < losses)


def test_the_optimizer_of_flax_nnx_takes_it():
    """It makes the state of parameters in their variables, and updates arrays without them."""
    params, apply = nnx()
    losses_fn = lambda params: jnp.mean((jnp.stack(apply(params)) - Y) ** 2, axis=1)
    tx = optax.chain(mtl.trunk_and_heads(mtl.mgda(3), mtl.shared_leaves(losses_fn, params)), optax.adam(1e-2))
    model = flax.nnx.merge(flax.nnx.graphdef(NnxNetwork(flax.nnx.Rngs(0))), params)
    optimizer = flax.nnx.Optimizer(model, tx, wrt=flax.nnx.Param)

    @flax.nnx.jit
    def step(model, optimizer):
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(flax.nnx.state(model, flax.nnx.Param))
        optimizer.update(model, task_grads)
        return losses

    losses = [step(model, optimizer) for _ in range(10)]
    assert np.all(losses[-1] < losses[0])
    np.testing.assert_allclose(np.sum(mtl.diagnostics.read(optimizer.opt_state).weights), 1, rtol=1e-5)
