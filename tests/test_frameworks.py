"""Real train steps: Flax's TrainState, Flax NNX, Haiku, Equinox and plain JAX, each a trunk with two heads."""

import chex
import equinox
import flax.linen
import flax.nnx
import flax.training.train_state
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtlgrad_jax as mtl

pytestmark = pytest.mark.standard_promotion

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((32, 6)), jnp.float32)
Y = jnp.stack([jnp.sin(X[:, 0]), X[:, 1] * X[:, 2]])
METHODS = {"mgda": lambda: mtl.mgda(num_tasks=2), "primary_aux": lambda: mtl.primary_aux(num_tasks=2)}


@pytest.fixture(params=METHODS)
def tx(request):
    return optax.chain(METHODS[request.param](), optax.adam(1e-2))


def losses_of(outputs):
    return jnp.mean((outputs - Y) ** 2, axis=1)


class Linen(flax.linen.Module):
    """A trunk and two heads."""

    @flax.linen.compact
    def __call__(self, x):
        hidden = flax.linen.relu(flax.linen.Dense(16, name="trunk")(x))
        return jnp.stack([flax.linen.Dense(1, name=f"head_{i}")(hidden)[:, 0] for i in range(2)])


def train(step, state, length=60):
    history = []
    for _ in range(length):
        state, losses = step(state)
        history.append(losses)
    return state, np.stack(history)


def assert_learned(history):
    assert np.all(history[-1] < 0.7 * history[0]), (history[0], history[-1])


def test_flax_train_state(tx):
    model = Linen()
    losses_fn = lambda params: losses_of(model.apply({"params": params}, X))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state):
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(state.params)
        return state.apply_gradients(grads=task_grads), losses

    chex.clear_trace_counter()
    params = model.init(jax.random.key(0), X)["params"]
    state = flax.training.train_state.TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    state, history = train(step, state)
    assert int(state.step) == 60
    assert_learned(history)


def test_flax_nnx_optimizer(tx):
    class Network(flax.nnx.Module):
        def __init__(self, rngs):
            self.trunk = flax.nnx.Linear(6, 16, rngs=rngs)
            self.left, self.right = (flax.nnx.Linear(16, 1, rngs=rngs) for _ in range(2))

        def __call__(self, x):
            hidden = jax.nn.relu(self.trunk(x))
            return jnp.stack([self.left(hidden)[:, 0], self.right(hidden)[:, 0]])

    model = Network(flax.nnx.Rngs(0))
    optimizer = flax.nnx.Optimizer(model, tx, wrt=flax.nnx.Param)

    @flax.nnx.jit
    def step(model, optimizer):
        graph, params = flax.nnx.split(model, flax.nnx.Param)
        losses_fn = lambda params: losses_of(flax.nnx.merge(graph, params)(X))
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
        optimizer.update(model, task_grads)
        return losses

    history = np.stack([step(model, optimizer) for _ in range(60)])
    assert_learned(history)


def test_haiku(tx):
    def network(x):
        hidden = jax.nn.relu(haiku.Linear(16)(x))
        return jnp.stack([haiku.Linear(1)(hidden)[:, 0] for _ in range(2)])

    model = haiku.without_apply_rng(haiku.transform(network))

    @jax.jit
    def step(state):
        params, opt_state = state
        losses, task_grads = mtl.task_value_and_grad(lambda p: losses_of(model.apply(p, X)))(params)
        updates, opt_state = tx.update(task_grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), losses

    params = model.init(jax.random.key(0), X)
    _, history = train(step, (params, tx.init(params)))
    assert_learned(history)


def test_equinox(tx):
    class Network(equinox.Module):
        trunk: equinox.nn.Linear
        heads: list[equinox.nn.Linear]

        def __call__(self, x):
            hidden = jax.nn.relu(self.trunk(x))
            return jnp.concatenate([head(hidden) for head in self.heads])

    keys = jax.random.split(jax.random.key(0), 3)
    heads = [equinox.nn.Linear(16, 1, key=key) for key in keys[1:]]
    model = Network(equinox.nn.Linear(6, 16, key=keys[0]), heads)

    @equinox.filter_jit
    def step(state):
        model, opt_state = state
        params, static = equinox.partition(model, equinox.is_inexact_array)

        losses_fn = lambda params: losses_of(jax.vmap(equinox.combine(params, static))(X).T)
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
        updates, opt_state = tx.update(task_grads, opt_state, params)
        return (equinox.apply_updates(model, updates), opt_state), losses

    state = (model, tx.init(equinox.filter(model, equinox.is_inexact_array)))
    _, history = train(step, state)
    assert_learned(history)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_plain_jax_scanned(tx, dtype):
    params = {"trunk": RNG.standard_normal((6, 16)) * 0.4, "heads": list(RNG.standard_normal((2, 16)) * 0.3)}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)

    def losses_fn(params):
        hidden = jax.nn.relu(X.astype(dtype) @ params["trunk"])
        return losses_of(jnp.stack([hidden @ head for head in params["heads"]]).astype(jnp.float32))

    def step(state, _):
        params, opt_state = state
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
        updates, opt_state = tx.update(task_grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), losses

    start = (params, tx.init(params))
    end, history = jax.jit(lambda state: jax.lax.scan(step, state, length=100))(start)
    chex.assert_trees_all_equal_shapes_and_dtypes(start, end)
    assert np.all(history[-1] < history[0])
