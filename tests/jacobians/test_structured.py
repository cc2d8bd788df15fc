"""J layer by layer: every layer it knows, every wrapping, what it leaves to the general way, and what it costs."""

import equinox
import flax.linen
import flax.nnx
import haiku
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, strategies
from jax import lax

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import automatic, matrix_free, per_example, stacked, structured

RNG = np.random.default_rng(0)
T, B = 3, 6


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape) / max(1, shape[0]) ** 0.5, jnp.float32)


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


def in_a_loop(params, example):
    return lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ params["square"]), example["x"])[:T]


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
        image,
        params["kernel"],
        (1, 2),
        [(1, 0), (2, 1)],
        rhs_dilation=(2, 1),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
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
    tokens = (
        (tokens - tokens.mean(-1, keepdims=True)) * lax.rsqrt(tokens.var(-1, keepdims=True) + 1) * params["scale"][None]
    )
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
    in_a_loop: {"square": normal(8, 8)},
    scan_in_scan: {"outer": normal(2, 8, 8) / 2, "inner": normal(3, 8, 8) / 2},
    embedding: TABLE,
    taken: {"table": TABLE["table"]},
    out_of_range: {"table": TABLE["table"]},
    few_rows: {"table": TABLE["table"][:2]},
    convolution: {"kernel": normal(2, 3, 4, 4), "depthwise": normal(8, 1, 3, 3), "transposed": normal(4, 8, 3)},
    attention: {**HEADS, "out": normal(2, 4, 8), "scale": normal(8)},
    rematerialised: DENSE,
}


@pytest.fixture(params=NETWORKS, ids=lambda network: network.__name__)
def network(request):
    return request.param


def example_loss(network):
    return lambda params, example: jnp.mean((network(params, example) - example["y"]) ** 2)


def task_losses(network):
    batched = jax.vmap(network, (None, 0))
    return lambda params: jnp.mean((batched(params, DATA) - Y) ** 2, axis=0)


def losses_and_rows(function, params):
    """Return the losses, and J as one matrix in double precision, by `jax.jacrev`."""
    losses, leaves = jax.jit(lambda params: (function(params), jax.jacrev(function)(params)))(params)
    leaves = [np.asarray(leaf, np.float64).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(leaves)]
    return losses, np.concatenate(leaves, axis=1)


def rows(function, params):
    return losses_and_rows(function, params)[1]


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).reshape(-1) for leaf in jax.tree.leaves(tree)])


def assert_agrees(linearize, function, params, expected=None):
    """Compare everything that J answers with the rows of `jax.jacrev`."""
    wanted_losses, jacobian = losses_and_rows(function, params) if expected is None else expected
    tolerance = 1e-6
    weights = np.linspace(-1, 1, len(jacobian), dtype=np.float32)

    @jax.jit
    def run(params):
        losses, jac = linearize(params)
        update = jac.combine(weights)
        return losses, jac.scaled_gram(), update, jac.push(update), jac.row_lengths()

    losses, (gram, exponent), update, change, lengths = run(params)
    wanted = jacobian @ jacobian.T
    norms = np.sqrt(np.diagonal(wanted))
    assert np.allclose(losses, wanted_losses, rtol=1e-6)
    assert exponent == 0
    assert np.all(np.asarray(gram) == np.asarray(gram).T)
    assert np.all(np.abs(gram - wanted) <= tolerance * np.outer(norms, norms))
    assert np.allclose(lengths, norms, rtol=tolerance)
    assert np.linalg.norm(flat(update) - weights @ jacobian) < tolerance * np.linalg.norm(norms)
    assert np.allclose(change, wanted @ weights, atol=5 * tolerance * np.max(norms) * np.linalg.norm(norms))


def report(linearize, params):
    """Return how J holds every leaf, without computing anything."""
    return jax.eval_shape(lambda params: linearize(params)[1], params).report()


def test_tasks_agree_with_jacrev(network):
    function, params = task_losses(network), NETWORKS[network]
    expected = losses_and_rows(function, params)
    for chunk_size in (None, 2):
        linearize = lambda params, size=chunk_size: structured.linearize(function, params, chunk_size=size)
        assert_agrees(linearize, function, params, expected)


def test_examples_agree_with_jacrev(network):
    loss_fn = example_loss(network)
    linearize = lambda params: per_example.linearize(loss_fn, params, DATA, chunk_size=4)
    assert_agrees(linearize, lambda params: jax.vmap(loss_fn, (None, 0))(params, DATA), NETWORKS[network])


def test_every_kernel_goes_layer_by_layer(network):
    """Without this line the general way could do all the work."""
    losses_fn, loss_fn = task_losses(network), example_loss(network)
    ways = (
        lambda params: structured.linearize(losses_fn, params),
        lambda params: per_example.linearize(loss_fn, params, DATA),
    )
    for linearize in ways:
        _, jac = jax.eval_shape(linearize, NETWORKS[network])
        hash(jax.tree.structure(jac))  # so that it leaves one jit and enters another
        for name, how in jac.report().items():
            assert how.startswith("row by row" if name in ("bias", "scale") else "layer by layer"), jac.report()


# What is left to the general way, and why
def tied(params, example):
    return jnp.tanh(example["x"] @ params["w"]) @ params["w"].T[:, :T]


def decayed(params, example):
    return (example["x"] @ params["w"])[:T] + jnp.sum(params["w"] ** 2)


def normalised(params, example):
    return (example["x"] @ (params["w"] / jnp.linalg.norm(params["w"])))[:T]


def multiplied(params, example):
    return (example["x"] @ params["w"] @ (params["w"] @ params["w"]))[:T]


def in_a_branch(params, example):
    return lax.cond(X[0, 0] > 0, lambda w: example["x"] @ w, lambda w: w @ example["x"], params["w"])[:T]


def as_a_carry(params, example):
    return lax.scan(lambda w, x: (w * 0.9, x @ w), params["w"], example["tokens"])[1].sum(0)[:T]


def overlapping(params, example):
    return (example["x"][:5] @ params["w"][:5] + example["x"][:5] @ params["w"][3:])[:T]


@jax.custom_vjp
def custom_product(x, w):
    return x @ w


custom_product.defvjp(lambda x, w: (x @ w, (x, w)), lambda kept, g: (g @ kept[1].T, jnp.outer(kept[0], g) * 2))


def with_its_own_rule(params, example):
    return custom_product(example["x"], params["w"])[:T]


REASONS = {
    tied: "enters 2 layers that share entries",
    decayed: "enters integer_pow",
    normalised: "enters",
    multiplied: "enters dot_general",
    in_a_branch: "enters cond",
    as_a_carry: "is changed by a loop",
    overlapping: "share entries",
    with_its_own_rule: "enters custom_vjp_call",
}


@pytest.mark.parametrize("network", REASONS, ids=lambda network: network.__name__)
def test_what_is_not_recognised_goes_the_general_way(network):
    params = {"w": NETWORKS[unrolled]["square"], "other": normal(T, T)}
    whole = lambda params, example: network(params, example) @ params["other"]
    function, loss_fn = task_losses(whole), example_loss(whole)
    expected = losses_and_rows(function, params)
    for chunk_size in (None, 2):
        linearize = lambda params, size=chunk_size: structured.linearize(function, params, chunk_size=size)
        assert_agrees(linearize, function, params, expected)
    said = report(linearize, params)
    assert REASONS[network] in said["w"] and said["other"].startswith("layer by layer")
    linearize = lambda params: per_example.linearize(loss_fn, params, DATA, chunk_size=4)
    assert_agrees(linearize, lambda params: jax.vmap(loss_fn, (None, 0))(params, DATA), params)


def simple(params):
    return jnp.mean((jnp.tanh(X @ params["first"] + params["bias"][None]) @ params["second"] - Y) ** 2, axis=0)


def simple_example(params, example):
    return example_loss(dense)(params, example)


def assert_same(function, params, tolerance=1e-6):
    """Compare the Gram matrix with that of a stack."""

    @jax.jit
    def grams(params):
        _, jac = structured.linearize(function, params)
        return jac.scaled_gram(), stacked.scaled_gram(stack_of(function, params))

    assert_same_grams(*grams(params), tolerance)


def assert_same_grams(actual, wanted, tolerance=1e-6):
    """Compare Gram matrices, each in a power of two of its own."""
    (gram, exponent), (wanted, wanted_exponent) = actual, wanted
    gram, wanted = np.asarray(gram, np.float64), np.asarray(wanted, np.float64)
    wanted = wanted * 4.0 ** float(wanted_exponent - exponent)
    lengths = np.sqrt(np.diagonal(wanted))
    assert (exponent == 0) == (wanted_exponent == 0)
    assert np.all(np.abs(gram - wanted) <= tolerance * np.outer(lengths, lengths))


def stack_of(function, params):
    return mtl.task_value_and_grad(function)(params)[1]


@jax.jit
def grams_at(scale):
    """Return the Gram matrices of tasks and of examples at a common scale, each with that of the stack."""
    function = lambda params: simple(params) * scale
    loss_fn = lambda params, example: simple_example(params, example) * scale
    losses_fn = lambda params: jax.vmap(loss_fn, (None, 0))(params, DATA)
    _, tasks = structured.linearize(function, DENSE)
    _, examples = per_example.linearize(loss_fn, DENSE, DATA)
    pairs = (tasks, stack_of(function, DENSE)), (examples, stack_of(losses_fn, DENSE))
    return [(jac.scaled_gram(), stacked.scaled_gram(stack)) for jac, stack in pairs]


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-15, 1e15, 1e18, 1e30])
def test_a_common_scale_leaves_range_for_no_product(scale):
    for actual, wanted in grams_at(jnp.float32(scale)):
        assert_same_grams(actual, wanted)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_activations_may_be_as_small_or_large_as_gradients(scale):
    """The square of an activation leaves the range, the gradient does not."""
    params = {"first": DENSE["first"]}
    function = lambda params: jnp.sum((X * scale) @ params["first"], axis=0)
    assert_same(function, params)
    function = lambda params: jnp.sum((X * scale) @ params["first"], axis=0) / scale
    gram, exponent = jax.jit(lambda params: structured.linearize(function, params)[1].scaled_gram())(params)
    jacobian = rows(function, params)
    wanted = jacobian @ jacobian.T
    assert np.allclose(np.asarray(gram, np.float64) * 4.0 ** float(exponent), wanted, rtol=1e-5, atol=1e-5)


def test_tasks_twelve_decades_apart_keep_their_digits():
    function = lambda params: simple(params) * jnp.array([1e-6, 1.0, 1e6])
    assert_same(function, DENSE)


def test_corners():
    def corners(params):
        losses = simple(params)
        return jnp.stack([losses[0], losses[0], -losses[0], 0.0 * losses[1]])

    for function in (corners, lambda params: simple(params)[:1], lambda params: 0.0 * simple(params)):
        assert_same(function, DENSE)


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_leaves_that_are_losses_or_not_used(chunk_size):
    params = {"loss": jnp.array([1.0, 2.0]), "unused": jnp.ones(3)}
    losses, jac = structured.linearize(lambda params: params["loss"], params, chunk_size=chunk_size)
    assert jac.report()["unused"] == "not used"
    assert jac.report()["loss"].endswith("is a loss itself")
    assert jnp.array_equal(jac.gram(), jnp.eye(2))
    assert jnp.array_equal(jac.combine(losses)["loss"], params["loss"])
    losses, jac = structured.linearize(lambda params: jnp.ones(2), params, chunk_size=chunk_size)
    assert jnp.array_equal(jac.gram(), jnp.zeros((2, 2)))


def test_a_task_that_is_not_finite_spoils_its_own_row_only():
    def function(params):
        return jnp.stack([simple(params)[0], jnp.sum(jnp.sqrt(params["unused"])), simple(params)[1]])

    params = dict(DENSE, unused=jnp.zeros(2))
    grams = lambda params: (
        structured.linearize(function, params)[1].gram(),
        stacked.gram(stack_of(function, params)),
    )
    gram, wanted = jax.jit(grams)(params)
    assert np.array_equal(np.isfinite(gram), np.isfinite(wanted)) and not np.all(np.isfinite(gram))


def test_any_pytree_and_what_is_no_array():
    params = {"w": DENSE["first"], "step": jnp.arange(3), "none": None, "scale": jnp.float32(2)}

    def function(params):
        product = X @ params["w"]
        return {"b": jnp.sum(product) * params["scale"], "a": jnp.sum(product**2)}

    (losses, aux), jac = structured.linearize(lambda p: (function(p), ("aux", p["step"])), params, has_aux=True)
    update, wanted = (
        jac.combine(jnp.array([1.0, 3.0])),
        stacked.combine(stack_of(function, params), jnp.array([1.0, 3])),
    )
    assert aux[0] == "aux"
    assert jnp.array_equal(aux[1], params["step"])
    assert isinstance(jac, mtl.typing.Jacobian)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and jnp.allclose(a, b), update, wanted))
    assert jnp.allclose(losses, jnp.stack(list(function(params).values())))
    assert jac.report()["step"] == "no gradient"
    assert_same(function, params)


def test_complex_parameters_go_the_general_way():
    params = {"z": lax.complex(normal(3, 4), normal(3, 4)), "w": normal(8, 3)}

    def function(params):
        outputs = (X @ params["w"]) @ params["z"].real + (X @ params["w"]) @ params["z"].imag ** 2
        return jnp.sum(outputs, axis=0)

    @jax.jit
    def push_and_gram(params):
        _, jac = structured.linearize(function, params)
        return jac.push(jac.combine(jnp.ones(4))), jac.gram()

    assert_same(function, params)
    pushed, gram = push_and_gram(params)
    assert np.allclose(pushed, np.asarray(gram) @ np.ones(4, np.float32), rtol=1e-4)


def test_half_precision_is_as_good_as_its_own_gradients():
    function = task_losses(mixed_precision)
    for params in (DENSE, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), DENSE)):
        assert_same(function, params, tolerance=2**-7)
        said = report(lambda params: structured.linearize(function, params), params)
        assert said["first"].startswith("layer by layer")
    single = lambda params: simple(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params))
    assert_same(single, DENSE, tolerance=2**-7)


def test_parameters_in_numbers_that_are_only_watched_stay_layers():
    """What the losses do not depend on, or only without a gradient, is no other use of a parameter."""

    def function(params):
        weight = lax.stop_gradient(jnp.max(params["first"])) + (params["second"] > 0).sum().astype(jnp.float32)
        jax.debug.callback(lambda x: None, params["first"])
        return simple(params) * weight, jnp.sum(params["first"] ** 2)

    said = report(lambda params: structured.linearize(function, params, has_aux=True), DENSE)
    assert said["first"].startswith("layer by layer")
    assert said["second"].startswith("layer by layer")
    assert_same(lambda params: function(params)[0], DENSE)


def test_the_loss_function_is_run_once():
    calls = []

    def counted(params):
        jax.debug.callback(lambda: calls.append(1))
        return simple(params)

    _, jac = structured.linearize(counted, DENSE)
    jac.combine(jac.gram()[0])
    jax.effects_barrier()
    assert len(calls) == 1


def test_the_linearization_leaves_one_jit_and_enters_another():
    _, jac = jax.jit(lambda params: structured.linearize(simple, params))(DENSE)
    gram, update = jax.jit(lambda jac: (jac.gram(), jac.combine(jnp.ones(T))))(jac)
    wanted = jax.jit(lambda params: stacked.gram(stack_of(simple, params)))(DENSE)
    assert_same_grams((gram, 0), (wanted, 0))
    assert jax.tree.structure(update) == jax.tree.structure(DENSE)


def test_vmap_and_scan_and_second_derivatives():
    def gram(scale):
        return structured.linearize(lambda params: simple(params) * scale, DENSE)[1].gram()

    def example_gram(scale):
        return per_example.linearize(lambda params, x: simple_example(params, x) * scale, DENSE, DATA)[1].gram()

    scales = jnp.array([1.0, 2.0])
    for function in (jax.jit(gram), jax.jit(example_gram)):
        one_by_one = jnp.stack([function(scale) for scale in scales])
        assert jnp.allclose(jax.vmap(function)(scales), one_by_one, rtol=1e-5)
        assert jnp.allclose(lax.map(function, scales), one_by_one, rtol=1e-5)
        _, slope = jax.jvp(function, (jnp.float32(1),), (jnp.float32(1),))
        assert jnp.allclose(slope, 2 * function(1.0), rtol=1e-4, atol=1e-6)


def test_a_backward_rule_that_is_not_linear_can_be_pulled_and_not_pushed():
    @jax.custom_vjp
    def clip(x):
        return x

    clip.defvjp(lambda x: (x, None), lambda _, cotangent: (jnp.clip(cotangent, -0.01, 0.01),))
    function = lambda params: jnp.mean((clip(jnp.tanh(X @ params["first"])) @ params["second"] - Y) ** 2, axis=0)
    assert_same(function, DENSE)
    with pytest.raises(ValueError, match=r"needs backward passes only"):
        jax.eval_shape(lambda params: structured.linearize(function, params)[1].push(params), DENSE)


def test_errors_are_sentences():
    with pytest.raises(ValueError, match="expected chunk_size of at least 1 task"):
        structured.linearize(simple, DENSE, chunk_size=0)
    with pytest.raises(ValueError, match=r"expected losses of shape \(T,\)"):
        structured.linearize(lambda params: jnp.sum(params["first"]), DENSE)
    with pytest.raises(ValueError, match="floating-point leaves"):
        structured.linearize(lambda params: jnp.ones(2), {"step": jnp.arange(2)})


class Linen(flax.linen.Module):
    """Embedding, convolution, layer norm, attention and dense layers."""

    @flax.linen.compact
    def __call__(self, example):
        tokens = flax.linen.Embed(7, 8)(example["ids"])
        tokens = flax.linen.LayerNorm()(flax.linen.Conv(8, (3,))(tokens))
        tokens = tokens + flax.linen.MultiHeadDotProductAttention(num_heads=2)(tokens, tokens)
        return flax.linen.Dense(T)(flax.linen.gelu(flax.linen.Dense(6)(tokens))).mean(0)


class Nnx(flax.nnx.Module):
    def __init__(self, rngs):
        self.norm = flax.nnx.LayerNorm(8, rngs=rngs)
        self.cell = flax.nnx.Linear(8, 6, rngs=rngs)
        self.head = flax.nnx.Linear(6, T, rngs=rngs)

    def __call__(self, example):
        return self.head(jax.nn.relu(self.cell(self.norm(example["tokens"])))).mean(0)


class Equinox(equinox.Module):
    embedding: equinox.nn.Embedding
    cell: equinox.nn.GRUCell
    head: equinox.nn.Linear

    def __call__(self, example):
        step = lambda hidden, token: (self.cell(token, hidden), None)
        hidden, _ = lax.scan(step, jnp.zeros(6), jax.vmap(self.embedding)(example["ids"]))
        return self.head(hidden)


def in_haiku(example):
    hidden = haiku.Conv2D(4, 3)(example["image"][None])
    hidden = haiku.LayerNorm(-1, True, True)(jax.nn.relu(hidden)).mean((1, 2))
    return haiku.nets.MLP([6, T])(hidden)[0]


def first_example():
    return jax.tree.map(lambda leaf: leaf[0], DATA)


def linen():
    return jax.jit(Linen().init)(jax.random.key(0), first_example()), Linen().apply


def nnx():
    graph, params = flax.nnx.split(Nnx(flax.nnx.Rngs(0)), flax.nnx.Param)
    return params, lambda params, example: flax.nnx.merge(graph, params)(example)


def in_equinox():
    keys = jax.random.split(jax.random.key(0), 3)
    layers = equinox.nn.Embedding(7, 5, key=keys[0]), equinox.nn.GRUCell(5, 6, key=keys[1])
    model = Equinox(*layers, equinox.nn.Linear(6, T, key=keys[2]))
    params, static = equinox.partition(model, equinox.is_inexact_array)
    return params, lambda params, example: equinox.combine(params, static)(example)


def haiku_model():
    model = haiku.without_apply_rng(haiku.transform(in_haiku))
    return jax.jit(model.init)(jax.random.key(0), first_example()), model.apply


@pytest.mark.standard_promotion
@pytest.mark.parametrize("framework", [linen, nnx, in_equinox, haiku_model], ids=lambda make: make.__name__)
def test_frameworks_agree_with_jacrev_and_keep_their_kernels(framework):
    params, network = framework()
    function, loss_fn = task_losses(network), example_loss(network)
    assert_agrees(lambda params: structured.linearize(function, params), function, params)
    everything = lambda params: jax.vmap(loss_fn, (None, 0))(params, DATA)
    assert_agrees(lambda params: per_example.linearize(loss_fn, params, DATA), everything, params)
    said = report(lambda params: structured.linearize(function, params), params)
    for leaf, how in zip(jax.tree.leaves(params), jax.tree.leaves(said), strict=True):
        is_kernel = leaf.ndim > 1 and jnp.any(leaf)  # biases start at zero
        assert not is_kernel or how.startswith("layer by layer"), (leaf.shape, how)


# Random programs on square matrices: parameters and activations meet in any order, in and out of calls and loops.
BINARY = {
    "product": jnp.matmul,
    "einsum": lambda a, b: jnp.einsum("ij,kj->ki", a, b),
    "sum": jnp.add,
    "times": jnp.multiply,
    "rows": lambda a, b: a[jnp.argsort(b[0])],
    "halves": lambda a, b: jnp.concatenate([a[:1] @ b, b[1:]]),
    "scan": lambda a, b: lax.scan(lambda x, row: (jnp.tanh(x @ a), x @ row), b, b)[0],
    "stacked": lambda a, b: lax.scan(lambda x, row: (x + row @ b, x * row), b[0], a)[1],
    "kernel": lambda a, b: lax.conv_general_dilated(a[None, None], b[None, None, :2], (1, 1), "SAME")[0, 0],
    "branch": lambda a, b: lax.cond(jnp.sum(b) > 0, lambda a: a @ b, lambda a: b + a, a),
}
UNARY = {
    "same": lambda a: a,
    "tanh": jnp.tanh,
    "transpose": jnp.transpose,
    "stop": lax.stop_gradient,
    "reverse": lambda a: a[::-1],
    "reshape": lambda a: a.reshape(-1)[None].reshape(3, 3),
    "relu": jax.nn.relu,
}
WRAPPERS = {
    "plain": lambda f: f,
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "vmap": lambda f: lambda a, b: jax.vmap(f, (None, 0))(a, b[None])[0],
}
STEP = strategies.tuples(
    *map(strategies.sampled_from, (list(BINARY), list(UNARY), list(UNARY), list(WRAPPERS))),
    strategies.integers(0, 99),
    strategies.integers(0, 99),
)


def run_program(program, params, x):
    pool = [x, *params]
    for name, before, other, wrapper, left, right in program:
        step = lambda a, b, name=name, before=before, other=other: BINARY[name](UNARY[before](a), UNARY[other](b))
        pool.append(jnp.tanh(WRAPPERS[wrapper](step)(pool[left % len(pool)], pool[right % len(pool)])))
    return sum(pool[-2:]) + params[0] @ x


@hypothesis.settings(max_examples=40, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
@hypothesis.given(program=strategies.lists(STEP, min_size=1, max_size=5), own_batches=strategies.booleans())
def test_random_programs_agree_with_jacrev(program, own_batches):
    """In double precision, so that nothing but a mistake is as large as the tolerance."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        params, examples = (
            list(jnp.asarray(rng.standard_normal((2, 3, 3)))),
            jnp.asarray(rng.standard_normal((4, 3, 3))),
        )
        if own_batches:
            loss_fn = lambda params, x: jnp.sum(run_program(program, params, x) ** 2)
            function = lambda params: jax.vmap(loss_fn, (None, 0))(params, examples)
            linearize = lambda params: per_example.linearize(loss_fn, params, examples, chunk_size=2)
        else:
            function = lambda params: jnp.sum(run_program(program, params, examples[0]) ** 2, axis=0)
            linearize = lambda params: structured.linearize(function, params)
        jacobian = rows(function, params)
        gram, update = jax.tree.map(np.asarray, jax.jit(lambda params: ask(linearize(params)[1]))(params))
    wanted = jacobian @ jacobian.T
    assert np.all(np.abs(gram - wanted) <= 1e-11 * np.max(np.diagonal(wanted)))
    assert np.allclose(flat(update), jacobian.sum(0), atol=1e-11 * np.max(np.abs(jacobian)))


def ask(jac):
    return jac.gram(), jac.combine(jnp.ones_like(jac.losses))


WIDTH, BATCH = 256, 64


def deep_losses(params, x, y):
    return jnp.mean((deep(params, x) - y) ** 2, axis=0)


def deep(params, x):
    for kernel in params["trunk"]:
        x = jax.nn.relu(x @ kernel)
    return x @ params["heads"]


def deep_arguments(num_outputs, width=WIDTH, batch=BATCH):
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)
    params = {"trunk": [shape(width, width)] * 3, "heads": shape(width, num_outputs)}
    return params, shape(batch, width), shape(batch, num_outputs)


def compiled(function, args):
    return jax.jit(function).lower(*args).compile()


def flops(function, args):
    return compiled(function, args).cost_analysis()["flops"]


def megabytes(function, args):
    return compiled(function, args).memory_analysis().temp_size_in_bytes / 2**20


def plain_step(params, x, y):
    return jax.grad(lambda params: jnp.sum(deep_losses(params, x, y)))(params)


def example_gram(params, x, y):
    loss_fn = lambda params, example: jnp.mean((deep(params, example[0]) - example[1]) ** 2)
    return per_example.linearize(loss_fn, params, (x, y))[1].gram()


def example_update(params, x, y):
    loss_fn = lambda params, example: jnp.mean((deep(params, example[0]) - example[1]) ** 2)
    _, jac = per_example.linearize(loss_fn, params, (x, y))
    return jac.combine(jac.gram()[0])


def task_gram(params, x, y):
    return structured.linearize(deep_losses, params, x, y)[1].gram()


def task_update(params, x, y):
    _, jac = structured.linearize(deep_losses, params, x, y)
    return jac.combine(jac.gram()[0])


def test_examples_cost_one_backward_pass_and_one_more_for_the_update():
    args = deep_arguments(10)
    pass_ = flops(plain_step, args)
    assert flops(example_gram, args) < 1.2 * pass_
    assert flops(example_update, args) < 1.85 * pass_


def test_tasks_cost_passes_through_activations_only():
    """A forward pass, a third of a plain step for each task, the update; for products a 24th, twice counted."""
    for num_tasks in (4, 8, 16):
        args = deep_arguments(num_tasks, width=512)
        limit = 1 + num_tasks * (1 / 3 + 2 / 24)
        assert flops(task_update, args) < limit * flops(plain_step, args)


def test_memory_is_activations_per_task_and_no_gradient():
    """A task has an eighth of a MB at each of three layers, and a gradient of 12 MB."""
    args = {num_tasks: deep_arguments(num_tasks, width=1024, batch=32) for num_tasks in (4, 16)}
    used = {num_tasks: megabytes(task_gram, args[num_tasks]) for num_tasks in args}
    assert used[16] - used[4] < 12 * 4 * 3 / 8  # kept, multiplied, in flight
    assert megabytes(task_update, args[16]) < used[16] + 12
    assert megabytes(example_gram, deep_arguments(10)) < 3  # the gradients of 64 examples are 48 MB


def test_the_automatic_way_follows_its_rule():
    linearized = lambda function, params: type(automatic.linearize(function, params)[1])
    assert automatic.choose(simple, DENSE).method == "structured"
    assert linearized(simple, DENSE) is structured.Structured
    squared = lambda params: simple(jax.tree.map(jnp.square, params))
    assert automatic.choose(squared, DENSE).method == "matrix_free"
    assert linearized(squared, DENSE) is matrix_free.MatrixFree
    assert_agrees(lambda params: structured.linearize(squared, params), squared, DENSE)
    kernel = jax.custom_vjp(lambda x: x)
    kernel.defvjp(lambda x: (x, None), lambda _, cotangent: (jnp.clip(cotangent, -1, 1),))
    choice = automatic.choose(lambda params: squared(jax.tree.map(kernel, params)), DENSE)
    assert choice.method == "structured"
    assert "cannot be transposed" in choice.reason
    assert automatic.choose(lambda params: (simple(params), "aux"), DENSE, has_aux=True).method == "structured"
    with pytest.raises(ValueError, match=r"expected losses of shape"):
        automatic.choose(lambda params: jnp.sum(params["first"]), DENSE)
