"""Every way to hold J agrees with `jax.jacrev`, on the architectures people train."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import matrix_free, per_example, stacked, structured

T = 5
KEYS = jax.random.split(jax.random.key(0), 8)


def normal(number, *shape):
    return jax.random.normal(KEYS[number], shape) / shape[0] ** 0.5


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
WEIGHTS = jnp.array([0.5, -1.0, 2.0, 0.0, 0.25])

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


def rows(function, params):
    """Return J as one matrix, by `jax.jacrev`."""
    leaves = jax.tree.leaves(jax.jit(jax.jacrev(function))(params))
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)


@functools.cache
def rows_of(network):
    return rows(losses_of(network), NETWORKS[network])


def flat(tree):
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def relative_error(gram, wanted):
    """Largest error of an inner product, relative to the lengths of the two gradients."""
    lengths = jnp.sqrt(jnp.diagonal(wanted))
    return jnp.max(jnp.abs(gram - wanted) / (lengths[:, None] * lengths[None, :]))


@pytest.mark.parametrize("way", WAYS)
def test_gram_and_direction_are_those_of_jacrev(network, way):
    params, losses_fn = NETWORKS[network], losses_of(network)
    jacobian = rows_of(network)

    @jax.jit
    def run(params):
        losses, jac = WAYS[way](losses_fn, params)
        return losses, jac.gram(), jac.combine(WEIGHTS)

    losses, gram, update = run(params)
    assert jnp.allclose(losses, losses_fn(params), rtol=1e-6)
    assert relative_error(gram, jacobian @ jacobian.T) < 1e-5
    assert jnp.all(gram == gram.T)
    assert jnp.linalg.norm(flat(update) - WEIGHTS @ jacobian) < 1e-5 * jnp.linalg.norm(WEIGHTS @ jacobian)


@pytest.mark.parametrize("chunk_size", [1, 4, None])
def test_example_gradients_are_those_of_jacrev(network, chunk_size):
    params = NETWORKS[network]

    def loss_fn(params, example):
        x, y = example
        return jnp.mean((network(params, x) - y) ** 2)

    jacobian = rows(lambda params: jax.vmap(loss_fn, (None, 0))(params, (X, Y)), params)
    weights = jnp.arange(6.0) - 2

    @jax.jit
    def run(params):
        losses, jac = per_example.linearize(loss_fn, params, (X, Y), chunk_size=chunk_size)
        return losses, jac.gram(), jac.combine(weights)

    losses, gram, update = run(params)
    assert losses.shape == (6,)
    assert relative_error(gram, jacobian @ jacobian.T) < 1e-5
    assert jnp.linalg.norm(flat(update) - weights @ jacobian) < 1e-5 * jnp.linalg.norm(weights @ jacobian)


def test_separate_losses_are_those_of_jacrev(network):
    params, losses_fn = NETWORKS[network], losses_of(network)
    loss_fns = [lambda params, task: losses_fn(params)[task]] * T
    losses, task_grads = jax.jit(mtl.separate_value_and_grad(loss_fns))(params, list(range(T)))
    jacobian = rows_of(network)
    assert jnp.allclose(losses, losses_fn(params), rtol=1e-6)
    assert relative_error(stacked.gram(task_grads), jacobian @ jacobian.T) < 1e-5


@pytest.mark.parametrize("method", ["stacked", "matrix_free"])
def test_all_methods_give_one_direction(network, method):
    params, losses_fn, weighting = NETWORKS[network], losses_of(network), mtl.weightings.upgrad
    run = jax.jit(lambda params: mtl.descent_direction(losses_fn, params, weighting, method=method))
    _, update, info = run(params)
    jacobian = rows_of(network)
    wanted = weighting(jacobian @ jacobian.T) @ jacobian
    longest = jnp.max(jnp.linalg.norm(jacobian, axis=1))
    assert jnp.linalg.norm(flat(update) - wanted) < 1e-5 * longest
    assert info.gap < 1e-5
