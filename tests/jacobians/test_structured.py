"""J layer by layer: every layer it knows, every wrapping, what it leaves to the general way, and what it costs."""

import equinox
import flax.linen
import flax.nnx
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import per_example, stacked, structured

KEYS = iter(jax.random.split(jax.random.key(0), 64))
T, B = 3, 6


def normal(*shape):
    return jax.random.normal(next(KEYS), shape) / max(1, shape[0]) ** 0.5


X, Y = normal(B, 8), normal(B, T)
IDS = jnp.array([[0, 3, 3], [5, 0, 1], [2, 2, 2], [6, 5, 4], [0, 0, 6], [1, 3, 5]])
DATA = {"x": X, "y": Y, "ids": IDS, "image": normal(B, 6, 6, 4), "tokens": normal(B, 5, 8)}


# Every network maps parameters and one example to T outputs.
def dense(params, example):
    return jnp.tanh(example["x"] @ params["first"] + params["bias"]) @ params["second"]


def from_the_left(params, example):
    return params["second"].T @ jnp.tanh(params["first"].T @ example["x"])


def unrolled(params, example):
    x = example["x"]
    for _ in range(3):
        x = jnp.tanh(x @ params["square"])
    return x[:T]


def sliced(params, example):
    x = example["x"]
    for layer in range(2):
        x = jnp.tanh(x @ params["stack"][layer])
    left, right = jnp.split(x @ params["fused"], 2)
    return (left * right)[:T]


def fused(params, example):
    """Two slices of one parameter, each a layer, and one layer by all of it in pieces."""
    left, right = jnp.split(params["fused"], 2, axis=1)
    return ((example["x"] @ left) * jnp.tanh(example["x"] @ right))[:T]


def scanned(params, example):
    step = lambda x, weights: (jnp.tanh(x @ weights["kernel"] + weights["bias"]), None)
    return lax.scan(step, example["x"], params)[0][:T]


def recurrent(params, example):
    def cell(hidden, token):
        hidden = jnp.tanh(hidden @ params["hidden"] + token @ params["input"])
        return hidden, hidden

    return lax.scan(cell, jnp.zeros(4), example["tokens"], reverse=True)[1].mean(0)[:T]


def scan_in_scan(params, example):
    """Layers stacked in the outer loop and shared by the steps of the inner one, and the other way around."""

    def outer(x, kernel):
        inner = lambda x, stacked: (jnp.tanh(x @ kernel + x @ stacked), None)
        return lax.scan(jax.checkpoint(inner), x, params["inner"])[0], None

    return lax.scan(outer, example["x"], params["outer"])[0][:T]


def embedding(params, example):
    return jnp.tanh(params["table"][example["ids"]].sum(0) @ params["second"])


def taken(params, example):
    looked_up = jnp.take(params["table"], example["ids"] - 2, axis=0, mode="clip")
    return jnp.tanh(looked_up[0] * looked_up[1] + looked_up[2] + params["table"][example["ids"][0]])[:T]


def out_of_range(params, example):
    looked_up = params["table"].at[example["ids"] * 2].get(mode="fill", fill_value=0)
    return jnp.tanh(looked_up.sum(0))[:T]


def few_rows(params, example):
    return jnp.tanh(params["table"][(example["ids"] > 2).astype(jnp.int32)].prod(0))[:T]


def convolution(params, example):
    image = example["image"][None]
    hidden = lax.conv_general_dilated(
        image, params["kernel"], (1, 2), [(1, 0), (2, 1)], rhs_dilation=(2, 1), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    hidden = lax.conv_general_dilated(
        jnp.tanh(hidden).transpose(0, 3, 1, 2), params["depthwise"], (1, 1), "SAME", feature_group_count=4
    )
    hidden = lax.conv_general_dilated(
        hidden.mean(2), params["transposed"], (1,), [(1, 2)], lhs_dilation=(2,), dimension_numbers=("NCH", "OIH", "NCH")
    )
    return jnp.tanh(hidden).mean((0, 2))[:T]


def attention(params, example):
    tokens = example["tokens"]
    tokens = (tokens - tokens.mean(-1, keepdims=True)) * lax.rsqrt(tokens.var(-1, keepdims=True) + 1) * params["scale"][None]
    query, key, value = (jnp.einsum("td,hdk->htk", tokens, params[name]) for name in ("query", "key", "value"))
    weights = jax.nn.softmax(jnp.einsum("htk,hsk->hts", query, key))
    return jnp.einsum("hts,hsk,hkd->td", weights, value, params["out"]).mean(0)[:T]


def mixed_precision(params, example):
    x = example["x"].astype(jnp.bfloat16)
    hidden = jnp.tanh(x @ params["first"].astype(jnp.bfloat16) + params["bias"].astype(jnp.bfloat16))
    return (hidden @ params["second"].astype(jnp.bfloat16)).astype(jnp.float32)


def rematerialised(params, example):
    return jax.checkpoint(jax.jit(dense), policy=jax.checkpoint_policies.dots_saveable)(params, example)


DENSE = {"first": normal(8, 16), "bias": normal(16), "second": normal(16, T)}
TABLE = {"table": normal(7, 5), "second": normal(5, T)}
HEADS = {name: normal(2, 8, 4) for name in ("query", "key", "value")}
NETWORKS = {
    dense: DENSE,
    from_the_left: {"first": DENSE["first"], "second": DENSE["second"]},
    unrolled: {"square": normal(8, 8)},
    sliced: {"stack": normal(2, 8, 8), "fused": normal(8, 6)},
    fused: {"fused": normal(8, 6)},
    scanned: {"kernel": normal(4, 8, 8), "bias": normal(4, 8)},
    recurrent: {"hidden": normal(4, 4), "input": normal(8, 4)},
    scan_in_scan: {"outer": normal(2, 8, 8) / 2, "inner": normal(3, 8, 8) / 2},
    embedding: TABLE,
    taken: {"table": TABLE["table"]},
    out_of_range: {"table": TABLE["table"]},
    few_rows: {"table": TABLE["table"][:2]},
    convolution: {"kernel": normal(2, 3, 4, 4), "depthwise": normal(8, 1, 3, 3), "transposed": normal(4, 8, 3)},
    attention: {**HEADS, "out": normal(2, 4, 8), "scale": normal(8)},
    rematerialised: DENSE,
}
BY_LAYER = {name: None for name in ()}


@pytest.fixture(params=NETWORKS, ids=lambda network: network.__name__)
def network(request):
    return request.param


def example_loss(network):
    return lambda params, example: jnp.mean((network(params, example) - example["y"]) ** 2)


def task_losses(network):
    batched = jax.vmap(network, (None, 0))
    return lambda params: jnp.mean((batched(params, DATA) - Y) ** 2, axis=0)


def rows(function, params):
    """Return J as one matrix in double precision, by `jax.jacrev`."""
    leaves = jax.tree.leaves(jax.jit(jax.jacrev(function))(params))
    return np.concatenate([np.asarray(leaf, np.float64).reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).reshape(-1) for leaf in jax.tree.leaves(tree)])


def assert_agrees(linearize, function, params, tolerance=1e-6):
    """Compare everything that J answers with the rows of `jax.jacrev`."""
    jacobian = rows(function, params)
    weights = np.linspace(-1, 1, len(jacobian), dtype=np.float32)

    @jax.jit
    def run(params):
        losses, jac = linearize(params)
        update = jac.combine(weights)
        return losses, jac.scaled_gram(), update, jac.push(update), jac.row_lengths()

    losses, (gram, exponent), update, change, lengths = run(params)
    wanted = jacobian @ jacobian.T
    norms = np.sqrt(np.diagonal(wanted))
    assert np.allclose(losses, function(params), rtol=1e-6)
    assert exponent == 0
    assert np.all(np.asarray(gram) == np.asarray(gram).T)
    assert np.max(np.abs(gram - wanted) / np.outer(norms, norms)) < tolerance
    assert np.allclose(lengths, norms, rtol=tolerance)
    assert np.linalg.norm(flat(update) - weights @ jacobian) < tolerance * np.linalg.norm(norms)
    assert np.allclose(change, wanted @ weights, atol=5 * tolerance * np.max(norms) * np.linalg.norm(norms))


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_tasks_agree_with_jacrev(network, chunk_size):
    function = task_losses(network)
    linearize = lambda params: structured.linearize(function, params, chunk_size=chunk_size)
    assert_agrees(linearize, function, NETWORKS[network])


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_examples_agree_with_jacrev(network, chunk_size):
    loss_fn = example_loss(network)
    linearize = lambda params: per_example.linearize(loss_fn, params, DATA, chunk_size=chunk_size)
    assert_agrees(linearize, lambda params: jax.vmap(loss_fn, (None, 0))(params, DATA), NETWORKS[network])


def test_every_large_leaf_goes_layer_by_layer(network):
    """Without this line the general way could do all the work."""
    params = NETWORKS[network]
    _, jac = structured.linearize(task_losses(network), params)
    report = jac.report()
    for name, leaf in params.items():
        assert report[name].startswith("layer by layer") == (name not in ("bias", "scale")), report
        del leaf
