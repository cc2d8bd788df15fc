"""Jv by every way to hold J: that of `jax.jvp`, the transpose of `combine`, at any scale and over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from test_agreement import (
    NETWORKS,
    WAYS,
    WEIGHTS,
    X,
    Y,
    answers,
    direction_like,
    example_loss,
    example_rows,
    flat,
    rows_of,
)

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import matrix_free, per_example, shared_encoder, stacked


@pytest.fixture(params=NETWORKS, ids=lambda network: network.__name__)
def network(request):
    return request.param


def assert_near(products, wanted):
    np.testing.assert_allclose(products, wanted, rtol=0, atol=1e-5 * float(np.max(np.abs(wanted))))


@pytest.mark.parametrize("way", WAYS)
def test_push_is_the_jvp_of_the_losses(network, way):
    *_, change = answers(network, way)
    assert_near(change, rows_of(network)[-1])


@pytest.mark.parametrize("way", WAYS)
def test_push_is_the_transpose_of_combine(network, way):
    _, gram, _, change, _ = answers(network, way)
    assert_near(change, gram @ WEIGHTS)


def test_push_of_example_losses_is_their_jvp(network):
    params = NETWORKS[network]
    push = jax.jit(lambda params, v: per_example.linearize(example_loss(network), params, (X, Y))[1].push(v))
    assert_near(push(params, direction_like(params)), example_rows(network)[-1])


@pytest.mark.parametrize("heads", ["own", "weighted"])
def test_push_at_a_shared_encoder_is_that_of_the_parameters(heads):
    params = {"encoder": {"w": jnp.ones((16, 8)), "step": jnp.array(3)}, "heads": {"w": jnp.ones((8, 5))}}
    encoder_fn = lambda encoder, x: jnp.tanh(x @ encoder["w"] / 4)
    heads_fn = lambda heads, h, x: jnp.mean((h @ heads["w"] - Y) ** 2, axis=0)
    losses_fn = lambda params: heads_fn(params["heads"], encoder_fn(params["encoder"], X), X)
    direction = {"encoder": {"w": jnp.ones((16, 8)) * 0.1, "step": jnp.array(0)}, "heads": {"w": jnp.ones((8, 5))}}
    _, jac = shared_encoder.linearize(encoder_fn, heads_fn, params, X, heads=heads)
    _, exact = matrix_free.linearize(losses_fn, params)
    wanted = exact.push(direction)
    assert_near(jax.jit(lambda jac: jac.push(direction))(jac), wanted)
    full = jac.at_parameters()
    np.testing.assert_allclose(full.gram(), exact.gram(), rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        full.combine(WEIGHTS),
        exact.combine(WEIGHTS),
    )
    assert isinstance(jac, mtl.typing.Jacobian) and isinstance(full, mtl.typing.Jacobian)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_push_takes_the_real_part_as_the_gram_matrix_does(mode):
    losses_fn = lambda z: jnp.stack([jnp.sum(jnp.abs(z) ** 2), jnp.sum(z.real * z.imag)])
    params = jnp.array([1 + 2j, -0.5 + 1j], jnp.complex64)
    _, jac = matrix_free.linearize(losses_fn, params, mode=mode)
    _, rows = stacked.linearize(losses_fn, params)
    weights = jnp.array([0.5, -2.0])
    for held in (jac, rows):
        np.testing.assert_allclose(held.push(held.combine(weights)), held.gram() @ weights, rtol=1e-5)
    direction = jnp.array([0.3 - 1j, 2 + 0.1j], jnp.complex64)
    np.testing.assert_allclose(jac.push(direction), rows.push(direction), rtol=1e-5)


def test_push_of_half_precision_is_summed_in_float32():
    rows = jnp.ones((2, 4096), jnp.bfloat16)
    products = stacked.push(rows, jnp.full(4096, 1 + 2**-7, jnp.bfloat16))
    assert products.dtype == jnp.float32
    np.testing.assert_array_equal(products, np.full(2, 4096 * (1 + 2**-7), np.float32))


def test_a_row_that_is_not_finite_spoils_no_other_and_integers_take_no_part():
    rows = {"w": jnp.array([[1.0, jnp.nan], [1.0, 2.0]]), "n": jnp.zeros((2, 3), jnp.int32)}
    products = stacked.push(rows, {"w": jnp.array([1.0, 1.0]), "n": jnp.zeros(3, jnp.int32)})
    assert np.isnan(products[0]) and products[1] == 3


def test_without_a_transpose_it_says_what_to_call():
    @jax.custom_vjp
    def rounded(x):
        return x

    rounded.defvjp(lambda x: (x, None), lambda _, g: (jnp.round(g),))
    losses_fn = lambda x: jnp.stack([jnp.sum(rounded(x) * 2), jnp.sum(x)])
    _, jac = matrix_free.linearize(losses_fn, jnp.ones(3))
    with pytest.raises(ValueError, match=r"mode=\"reverse\""):
        jac.push(jnp.ones(3))
    _, jac = matrix_free.linearize(losses_fn, jnp.ones(3), mode="reverse")
    np.testing.assert_allclose(jac.push(jnp.ones(3)), [6.0, 3.0])


needs_devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; see XLA_FLAGS in conftest.py")


@needs_devices
def test_push_adds_up_what_is_split_over_devices_and_counts_the_rest_once():
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    rows = {name: jnp.asarray(rng.standard_normal((3, 16)), jnp.float32) for name in ("split", "whole")}
    direction = jax.tree.map(lambda leaf: leaf[0] - leaf[1], rows)
    specs = {"split": P("model"), "whole": P()}
    row_specs = {"split": P(None, "model"), "whole": P()}
    push = lambda rows, direction: stacked.push(rows, direction, axis_name="model")
    over = jax.jit(jax.shard_map(push, mesh=mesh, in_specs=(row_specs, specs), out_specs=P()))
    together = lambda tree: jnp.concatenate([tree["split"], tree["whole"]], axis=-1)
    np.testing.assert_allclose(over(rows, direction), together(rows) @ flat(direction), rtol=1e-5)
    with pytest.raises(ValueError, match=r"differ over the mesh axes \['model'\]"):
        jax.shard_map(stacked.push, mesh=mesh, in_specs=(row_specs, specs), out_specs=P())(rows, direction)


@needs_devices
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_push_of_parameters_and_a_batch_split_over_devices(mode):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((4, 16)), jnp.float32)
    params, direction = jnp.arange(16.0) / 8, jnp.cos(jnp.arange(16.0))

    def whole(params):
        return jnp.mean(jnp.stack([x @ params, (x @ params) ** 2]), axis=1)

    def push(params, direction, x):
        def losses_fn(params):
            total = jax.lax.psum(x @ params, "model")
            return jnp.mean(jnp.stack([total, total**2]), axis=1)

        _, jac = matrix_free.linearize(losses_fn, params, mode=mode)
        return jac.push(direction)

    over = jax.shard_map(push, mesh=mesh, in_specs=(P("model"), P("model"), P(None, "model")), out_specs=P())
    assert_near(jax.jit(over)(params, direction, x), jax.jvp(whole, (params,), (direction,))[1])
