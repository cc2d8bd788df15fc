"""Every way to hold J agrees with `jax.jacrev`, on the architectures people train."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import matrix_free, per_example, stacked, structured

T = 5


def normal(number, *shape):
    return jnp.asarray(np.random.default_rng(number).standard_normal(shape) / shape[0] ** 0.5, jnp.float32)


def mlp(params, x):
    return jax.nn.relu(x @ params["first"] + params["bias"]) @ params["second"]


def convolution(params, x):
    image = x.reshape(1, 4, 4, 1)
    hidden = lax.conv_general_dilated(
        image, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    pooled = lax.reduce_window(jax.nn.relu(hidden), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return pooled.reshape(-1) @ params["second"]


def attention(params, x):
    tokens = x.reshape(4, 4)
    query, key, value = (tokens @ params[name] for name in ("query", "key", "value"))
    mean = jnp.mean(value, axis=1, keepdims=True)
    value = (value - mean) * lax.rsqrt(jnp.mean((value - mean) ** 2, axis=1, keepdims=True) + 1)
    return (jax.nn.softmax(query @ key.T) @ value).reshape(-1) @ params["second"]


def recurrent(params, x):
    def cell(hidden, token):
        hidden = jnp.tanh(hidden @ params["hidden"] + token @ params["input"])
        return hidden, hidden

    _, states = lax.scan(cell, jnp.zeros(8), x.reshape(4, 4))
    return states.reshape(-1) @ params["second"]


def tied(params, x):
    """The decoder is the encoder transposed."""
    return (jnp.tanh(x @ params["first"]) @ params["first"].T)[:T] * params["scale"]


def residual(params, x):
    for name in ("first", "second"):
        x = x + jax.nn.gelu(x @ params[name]) @ params[name + "_out"]
    return x @ params["head"]


def rematerialised(params, x):
    return jax.checkpoint(mlp)(params, x)


NETWORKS = {
    mlp: {"first": normal(0, 16, 8), "bias": normal(1, 8), "second": normal(2, 8, T)},
    rematerialised: {"first": normal(0, 16, 8), "bias": normal(1, 8), "second": normal(2, 8, T)},
    convolution: {"kernel": normal(0, 3, 3, 1, 4), "second": normal(1, 16, T)},
    attention: {
        **{name: normal(i, 4, 4) for i, name in enumerate(("query", "key", "value"))},
        "second": normal(3, 16, T),
    },
    recurrent: {"hidden": normal(0, 8, 8), "input": normal(1, 4, 8), "second": normal(2, 32, T)},
    tied: {"first": normal(0, 16, 8), "scale": jnp.ones(())},
    residual: {
        **{name: normal(i, 16, 16) for i, name in enumerate(("first", "first_out", "second", "second_out"))},
        "head": normal(5, 16, T),
    },
}
X, Y = normal(6, 6, 16), normal(7, 6, T)
WEIGHTS = np.array([0.5, -1.0, 2.0, 0.0, 0.25], np.float32)

WAYS = {
    "stacked": stacked.linearize,
    "stacked, in chunks": lambda *args: stacked.linearize(*args, chunk_size=2),
    "structured": structured.linearize,
    "structured, in chunks": lambda *args: structured.linearize(*args, chunk_size=2),
    "matrix-free": matrix_free.linearize,
    "matrix-free, in chunks": lambda *args: matrix_free.linearize(*args, chunk_size=2),
    "matrix-free, at once": lambda *args: matrix_free.linearize(*args, chunk_size=None),
    "matrix-free, backward only": lambda *args: matrix_free.linearize(*args, mode="reverse"),
    "matrix-free, backward only, in chunks": lambda *args: matrix_free.linearize(*args, mode="reverse", chunk_size=2),
}


@pytest.fixture(params=NETWORKS, ids=lambda network: network.__name__)
def network(request):
    return request.param


def losses_of(network):
    return lambda params: jnp.mean((jax.vmap(network, (None, 0))(params, X) - Y) ** 2, axis=0)


def direction_like(params):
    rng = np.random.default_rng(9)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), params)


def rows(function, params):
    """Return the losses, J as one matrix and Jv for v of `direction_like`, by `jax.jacrev` and `jax.jvp`."""

    @jax.jit
    def run(params, direction):
        return function(params), jax.jacrev(function)(params), jax.jvp(function, (params,), (direction,))[1]

    losses, leaves, change = jax.device_get(run(params, direction_like(params)))
    jacobian = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(leaves)]
    return losses, np.concatenate(jacobian, axis=1), change


@functools.cache
def rows_of(network):
    return rows(losses_of(network), NETWORKS[network])


@functools.cache
def answers(network, way):
    """Return all that one way to hold J answers, from one program: compiling is what takes the time."""

    @jax.jit
    def run(params, direction):
        losses, jac = WAYS[way](losses_of(network), params)
        update = jac.combine(WEIGHTS)
        return losses, jac.gram(), update, jac.push(update), jac.push(direction)

    params = NETWORKS[network]
    return jax.device_get(run(params, direction_like(params)))


def flat(tree):
    return np.concatenate([np.reshape(leaf, -1) for leaf in jax.tree.leaves(tree)])


def relative_error(gram, wanted):
    """Largest error of an inner product, relative to the lengths of the two gradients."""
    lengths = np.sqrt(np.diagonal(wanted))
    return np.max(np.abs(gram - wanted) / (lengths[:, None] * lengths[None, :]))


@pytest.mark.parametrize("way", WAYS)
def test_gram_and_direction_are_those_of_jacrev(network, way):
    wanted_losses, jacobian, _ = rows_of(network)
    losses, gram, update, *_ = answers(network, way)
    assert np.allclose(losses, wanted_losses, rtol=1e-6)
    assert relative_error(gram, jacobian @ jacobian.T) < 1e-5
    assert np.all(gram == gram.T)
    wanted = WEIGHTS @ jacobian
    assert np.linalg.norm(flat(update) - wanted) < 1e-5 * np.linalg.norm(wanted)


def example_loss(network):
    return lambda params, example: jnp.mean((network(params, example[0]) - example[1]) ** 2)


@functools.cache
def example_rows(network):
    return rows(lambda params: jax.vmap(example_loss(network), (None, 0))(params, (X, Y)), NETWORKS[network])


@pytest.mark.parametrize("chunk_size", [1, 4, None])
def test_example_gradients_are_those_of_jacrev(network, chunk_size):
    params, loss_fn = NETWORKS[network], example_loss(network)
    _, jacobian, _ = example_rows(network)
    weights = np.arange(6, dtype=np.float32) - 2

    @jax.jit
    def run(params):
        losses, jac = per_example.linearize(loss_fn, params, (X, Y), chunk_size=chunk_size)
        return losses, jac.gram(), jac.combine(weights)

    losses, gram, update = jax.device_get(run(params))
    assert losses.shape == (6,)
    assert relative_error(gram, jacobian @ jacobian.T) < 1e-5
    assert np.linalg.norm(flat(update) - weights @ jacobian) < 1e-5 * np.linalg.norm(weights @ jacobian)


def test_separate_losses_are_those_of_jacrev(network):
    params, losses_fn = NETWORKS[network], losses_of(network)
    loss_fns = [lambda params, task: losses_fn(params)[task]] * T

    @jax.jit
    def run(params):
        losses, task_grads = mtl.separate_value_and_grad(loss_fns)(params, list(range(T)))
        return losses, stacked.gram(task_grads)

    losses, gram = jax.device_get(run(params))
    wanted, jacobian, _ = rows_of(network)
    assert np.allclose(losses, wanted, rtol=1e-6)
    assert relative_error(gram, jacobian @ jacobian.T) < 1e-5


@pytest.mark.parametrize("method", ["stacked", "matrix_free"])
def test_all_methods_give_one_direction(network, method):
    params, losses_fn, weighting = NETWORKS[network], losses_of(network), mtl.weightings.upgrad
    run = jax.jit(lambda params: mtl.descent_direction(losses_fn, params, weighting, method=method))
    _, update, info = run(params)
    _, jacobian, _ = rows_of(network)
    wanted = np.asarray(jax.jit(weighting)(jacobian @ jacobian.T)) @ jacobian
    longest = np.max(np.linalg.norm(jacobian, axis=1))
    assert np.linalg.norm(flat(update) - wanted) < 1e-5 * longest
    assert info.gap < 1e-5
