"""J over eight devices, however it is held: the Gram matrix and update of one device, and what is sent for them."""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mtlgrad_jax.jacobians import matrix_free, shared_encoder, stacked, structured

pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; see XLA_FLAGS in conftest.py")

T, BATCH, WIDTH = 4, 24, 16
DRAWS = [np.random.default_rng(seed).standard_normal((BATCH, WIDTH)).astype(np.float32) for seed in range(5)]
PARAMS = {"encoder": {"up": DRAWS[0][:WIDTH], "down": DRAWS[1][:WIDTH]}, "heads": DRAWS[2][:WIDTH, :T]}
X, Y = DRAWS[3], DRAWS[4][:, :T]
SPECS = {  # the trunk's two square leaves along different axes, or all of them whole and the batch in pieces
    "model": ({"encoder": {"up": P(None, "model"), "down": P("model", None)}, "heads": P(None, None)}, P(None, None)),
    "batch": ({"encoder": {"up": P(None, None), "down": P(None, None)}, "heads": P(None, None)}, P("batch", None)),
}
SHAPES = {"model": {(BATCH, WIDTH), (WIDTH, BATCH)}, "batch": {(WIDTH, WIDTH), (WIDTH, T), (T, WIDTH)}}


def product(left, right, spec=None):
    return jnp.einsum("ij,jk->ik", left, right, out_sharding=spec)


def encoder_fn(encoder, x, y, spec=None):
    return jnp.tanh(product(jnp.tanh(x @ encoder["up"]), encoder["down"], spec))


def heads_fn(heads, representation, x, y):
    return jnp.mean((representation @ heads - y) ** 2, axis=0)


def losses_fn(params, x, y, spec=None):
    return heads_fn(params["heads"], encoder_fn(params["encoder"], x, y, spec), x, y)


def in_two_parts(params, x, y, spec=None, **options):
    return shared_encoder.linearize(partial(encoder_fn, spec=spec), heads_fn, params, x, y, heads="weighted", **options)


def whole(linearize):
    return lambda params, x, y, spec=None, **options: linearize(partial(losses_fn, spec=spec), params, x, y, **options)


LINEARIZE = {
    "stacked": whole(stacked.linearize),
    "matrix_free": whole(matrix_free.linearize),
    "reverse": whole(partial(matrix_free.linearize, mode="reverse", chunk_size=2)),
    "structured": whole(structured.linearize),
    "structured_in_chunks": whole(partial(structured.linearize, chunk_size=2)),
    "shared_encoder": in_two_parts,
    "shared_encoder_by_sweeps": partial(in_two_parts, chunk_size=1),
}


def step(method, **options):
    """Return the Gram matrix and a combination that depends on it."""

    def run(params, x, y):
        _, jac = LINEARIZE[method](params, x, y, **options)
        gram, exponent = jac.scaled_gram()
        return gram, exponent, jac.combine(gram[0] / jnp.max(jnp.diagonal(gram)))

    return run


@pytest.fixture(scope="module")
def alone():
    """On one device; the Gram matrix of the shared encoder is another one, that at the representation."""
    results = {name: jax.jit(step(name))(PARAMS, X, Y) for name in ("stacked", "shared_encoder")}
    return lambda method: results["shared_encoder" if method.startswith("shared") else "stacked"]


@pytest.fixture
def collectives(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import compiled

    yield compiled.collectives
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


def assert_same(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected)


def put(tree, specs, mesh):
    return jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), tree, specs)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("method", ["stacked", "matrix_free", "shared_encoder"])
@pytest.mark.parametrize("split", ["model", "batch"])
def test_what_is_sent(alone, collectives, split, method, axis_type):
    """One T×T all-reduce where a product of gradients is in pieces; never a gather."""
    mesh = jax.make_mesh((8,), (split,), axis_types=(axis_type,))
    spec = P(None, None) if split == "model" and axis_type == AxisType.Explicit else None
    specs, batch_spec = SPECS[split]
    with jax.set_mesh(mesh):
        args = put(PARAMS, specs, mesh), put(X, batch_spec, mesh), put(Y, batch_spec, mesh)
        compiled = jax.jit(step(method, spec=spec)).lower(*args).compile()
        gram, exponent, update = compiled(*args)
    assert_same((gram, exponent, update), alone(method))
    keeps = lambda leaf, spec: leaf.sharding.is_equivalent_to(NamedSharding(mesh, spec), leaf.ndim)
    assert jax.tree.all(jax.tree.map(keeps, update, specs))

    sent = collectives(compiled.as_text())
    assert {opcode for opcode, _, _ in sent} <= {"all-reduce"}
    reductions = [shapes for _, _, shapes in sent]
    in_loop = [shapes for _, in_loop, shapes in sent if in_loop]
    in_pieces = (split, method) in {("model", "stacked"), ("batch", "shared_encoder")}
    assert sum((T, T) in shapes for shapes in reductions) == in_pieces
    if split == "model":  # activations and the Gram matrix, never anything as large as a parameter
        assert set().union(*reductions) <= SHAPES["model"] | {(T, T)}
        assert len(in_loop) == (method == "matrix_free")  # what the network's own forward sweep sends
    if method == "matrix_free" and split == "batch":  # a sweep adds up the trunk's gradient and one column of G
        assert sum((T,) in shapes for shapes in in_loop) == 1
        assert set().union(*in_loop) == SHAPES["batch"] - {(WIDTH, T), (T, WIDTH)} | {(T,)}


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("method", ["structured", "structured_in_chunks"])
@pytest.mark.parametrize("split", ["model", "batch"])
def test_layer_by_layer_on_a_mesh(alone, split, method, axis_type):
    mesh = jax.make_mesh((8,), (split,), axis_types=(axis_type,))
    spec = P(None, None) if split == "model" and axis_type == AxisType.Explicit else None
    specs, batch_spec = SPECS[split]
    with jax.set_mesh(mesh):
        args = put(PARAMS, specs, mesh), put(X, batch_spec, mesh), put(Y, batch_spec, mesh)
        results = jax.jit(step(method, spec=spec))(*args)
    assert_same(results, alone(method))
    keeps = lambda leaf, spec: leaf.sharding.is_equivalent_to(NamedSharding(mesh, spec), leaf.ndim)
    assert jax.tree.all(jax.tree.map(keeps, results[2], specs))


def over_the_batch(function, **options):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=(P(), P("batch"), P("batch")), out_specs=P(), **options))


@pytest.mark.parametrize("method", [*LINEARIZE][1:])
def test_shard_map_over_the_batch(alone, collectives, method):
    run = over_the_batch(step(method, axis_name="batch"))
    assert_same(run(PARAMS, X, Y), alone(method))
    if method == "shared_encoder":
        sent = collectives(run.lower(PARAMS, X, Y).compile().as_text())
        assert {opcode for opcode, _, _ in sent} == {"all-reduce"}
        assert sum((T, T) in shapes for _, _, shapes in sent) == 1


def test_losses_that_are_averaged_already_need_no_name(alone):
    def averaged(heads, representation, x, y):
        return lax.pmean(heads_fn(heads, representation, x, y), "batch")

    def run(params, x, y):
        _, jac = shared_encoder.linearize(encoder_fn, averaged, params, x, y)
        weights = jnp.ones(T) / T
        return jac.gram(), shared_encoder.verify(jac, weights), shared_encoder.representation_overlap(jac)

    @jax.jit
    def wanted(params):
        _, jac = shared_encoder.linearize(encoder_fn, heads_fn, params, X, Y)
        return shared_encoder.verify(jac, jnp.ones(T) / T)

    gram, cosines, overlap = over_the_batch(run)(PARAMS, X, Y)
    assert_same(gram, alone("shared_encoder")[0])
    assert_same(cosines, wanted(PARAMS))
    assert_same(overlap, np.ones((T, T)))


@pytest.mark.parametrize("method", ["matrix_free", "structured", "shared_encoder"])
def test_a_batch_in_pieces_without_a_name_is_an_error(method):
    with pytest.raises(ValueError, match=r"losses that differ over the mesh axes \['batch'\]; name the axes"):
        over_the_batch(step(method))(PARAMS, X, Y)
    with pytest.raises(ValueError, match=r"losses that differ over the mesh axes \['batch'\]"):
        over_the_batch(step(method, axis_name=()))(PARAMS, X, Y)
    with pytest.raises(ValueError, match=r"got \['model'\]; leave it out elsewhere"):
        over_the_batch(step(method, axis_name="model"))(PARAMS, X, Y)


@pytest.mark.parametrize(
    ("method", "options"), [("stacked", {}), ("matrix_free", {"axis_name": "batch"}), ("shared_encoder", {})]
)
def test_a_shard_map_that_tracks_nothing_is_an_error(method, options):
    with pytest.raises(ValueError, match=r"shard_map .*\['batch'\] that does not"):
        over_the_batch(step(method, **options), check_vma=False)(PARAMS, X, Y)


@pytest.mark.parametrize("method", ["matrix_free", "structured", "shared_encoder"])
def test_each_device_on_its_own(method):
    def run(params, x, y):
        params = lax.pcast(params, "batch", to="varying")
        return jax.tree.map(lambda leaf: leaf[None], step(method, axis_name=())(params, x, y))

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    split = jax.shard_map(run, mesh=mesh, in_specs=(P(), P("batch"), P("batch")), out_specs=P("batch"))
    results = jax.jit(split)(PARAMS, X, Y)
    third = slice(2 * BATCH // 8, 3 * BATCH // 8)
    assert_same(jax.tree.map(lambda leaf: leaf[2], results), jax.jit(step(method))(PARAMS, X[third], Y[third]))


@pytest.mark.parametrize("scale", [1.0, 2.0**-40])
@pytest.mark.parametrize("method", ["matrix_free", "reverse", "structured", "structured_in_chunks"])
def test_shard_map_over_the_parameters(alone, method, scale):
    """Gradients in pieces add up without being named, also where squares leave the range of float32."""

    def in_pieces(params, x, y):
        hidden = jnp.tanh(x @ params["encoder"]["up"])
        representation = jnp.tanh(lax.psum(hidden @ params["encoder"]["down"], "model"))
        return heads_fn(params["heads"], representation, x, y) * scale**2

    def run(params, x, y):
        linearize = {
            "matrix_free": matrix_free.linearize,
            "reverse": partial(matrix_free.linearize, mode="reverse", chunk_size=2),
            "structured": structured.linearize,
            "structured_in_chunks": partial(structured.linearize, chunk_size=2),
        }[method]
        _, jac = linearize(in_pieces, params, x, y)
        gram, exponent = jac.scaled_gram()
        return gram, exponent, jac.combine(gram[0] / jnp.max(jnp.diagonal(gram)))

    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    specs, batch_spec = SPECS["model"]
    split = jax.shard_map(
        run, mesh=mesh, in_specs=(specs, batch_spec, batch_spec), out_specs=(P(None, None), P(), specs)
    )
    gram, exponent, update = jax.jit(split)(PARAMS, X, Y)
    wanted, _, wanted_update = alone(method)
    assert (exponent == 0) == (scale == 1.0)
    power = 2.0 ** float(exponent) / scale**2
    assert_same(np.asarray(gram, np.float64) * power**2, wanted)
    assert_same(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) / scale**2, update), wanted_update)
