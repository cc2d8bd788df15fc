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
    params = jax.jit(model.init)(jax.random.key(0), X)["params"]
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

    params = jax.jit(model.init)(jax.random.key(0), X)
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


def test_a_whole_equinox_module_gets_what_filter_grad_gives(tx):
    """Functions, rates and counters in the module are no parameters, in Equinox's words no inexact arrays."""

    class Network(equinox.Module):
        trunk: equinox.nn.MLP
        dropout: equinox.nn.Dropout
        count: jax.Array
        name: str

        def __call__(self, x):
            return self.dropout(self.trunk(x), inference=True)

    mlp = equinox.nn.MLP(6, 2, 16, 1, key=jax.random.key(0))
    model = Network(mlp, equinox.nn.Dropout(0.5), jnp.array(3), "network")
    losses_fn = lambda model: losses_of(jax.vmap(model)(X).T)
    _, task_grads = mtl.task_value_and_grad(losses_fn)(model)
    for task in range(2):
        expected = equinox.filter_grad(lambda model, task=task: losses_fn(model)[task])(model)
        row = jax.tree.map(lambda leaf, task=task: leaf[task], task_grads)
        chex.assert_trees_all_close(row, expected, rtol=1e-5)

    @equinox.filter_jit
    def step(state):
        model, opt_state = state
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(model)
        updates, opt_state = tx.update(task_grads, opt_state, equinox.filter(model, equinox.is_inexact_array))
        return (equinox.apply_updates(model, updates), opt_state), losses

    state = (model, tx.init(equinox.filter(model, equinox.is_inexact_array)))
    (trained, _), history = train(step, state)
    assert_learned(history)
    assert (trained.name, trained.dropout.p, int(trained.count)) == ("network", 0.5, 3)


class Normalised(flax.nnx.Module):
    """A network with statistics of the batch."""

    def __init__(self, rngs):
        self.trunk = flax.nnx.Linear(6, 16, rngs=rngs)
        self.norm = flax.nnx.BatchNorm(16, rngs=rngs)
        self.heads = flax.nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, x):
        return self.heads(jax.nn.relu(self.norm(self.trunk(x)))).T


@pytest.mark.parametrize(
    "call",
    [
        lambda fn, model: mtl.task_value_and_grad(fn)(model),
        lambda fn, model: mtl.descent_direction(fn, {"model": model}, mtl.weightings.mgda, method="matrix_free"),
        lambda fn, model: mtl.separate_value_and_grad([fn])(model, [None]),
    ],
)
def test_a_flax_nnx_module_is_refused_because_its_statistics_would_be_lost(call):
    with pytest.raises(
        ValueError, match=r"Flax NNX module, whose other state.*nnx\.split\(model, nnx\.Param, \.\.\.\)"
    ):
        call(lambda model: losses_of(model(X)), Normalised(flax.nnx.Rngs(0)))


def test_flax_nnx_statistics_move_as_the_sentence_says(tx):
    nnx = flax.nnx
    model, reference = Normalised(nnx.Rngs(0)), Normalised(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        graph, params, rest = nnx.split(model, nnx.Param, ...)

        def losses_fn(params):
            it = nnx.merge(graph, params, rest, copy=True)
            return losses_of(it(X)), nnx.state(it, nnx.Not(nnx.Param))

        (losses, aux), task_grads = mtl.task_value_and_grad(losses_fn, has_aux=True)(params)
        nnx.update(model, aux)
        optimizer.update(model, task_grads)
        return losses

    history = [step(model, optimizer)]
    reference(X)
    np.testing.assert_allclose(model.norm.mean[...], reference.norm.mean[...], rtol=1e-5, atol=1e-7)
    history += [step(model, optimizer) for _ in range(60)]
    assert_learned(np.stack(history))


def test_functions_and_strings_among_plain_parameters_have_no_gradient():
    params = {"w": jnp.ones(2), "activation": jnp.tanh, "name": "float32", "count": 3, "rate": 0.5}
    losses_fn = lambda params: (jnp.sum(params["activation"](params["w"])) * params["rate"], params["w"][0])
    losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
    assert task_grads["activation"] is None and task_grads["name"] is None
    np.testing.assert_array_equal(task_grads["count"], [0, 0])
    np.testing.assert_allclose(task_grads["rate"], [2 * np.tanh(1), 0], rtol=1e-6)
    _, update, _ = mtl.descent_direction(losses_fn, params, mtl.weightings.mean, method="matrix_free")
    assert update["activation"] is None and update["count"] == 0
    with pytest.raises(ValueError, match="floating-point leaves"):
        mtl.task_value_and_grad(losses_fn)({"activation": jnp.tanh, "count": 3})
