"""Programs written down for TPU, CUDA and CPU with parameters of any size, read back, and run here on two sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import mtlgrad_jax as mtl

PLATFORMS = ("tpu", "cuda", "cpu")
NUM_TASKS = 3
FACTORIES = {"mgda": mtl.mgda, "primary_aux": mtl.primary_aux, "upgrad": mtl.upgrad}
SIZES = [(4, 3), (6, 5)]

for record in (mtl.AggregateState, mtl.DescentInfo):  # as JAX asks for any NamedTuple
    export.register_namedtuple_serialization(record, serialized_name=f"{record.__module__}.{record.__qualname__}")


def there_and_back(function, *args):
    """Export, serialize and deserialize; the names of the platforms are part of what is read back."""
    exported = export.deserialize(export.export(jax.jit(function), platforms=PLATFORMS)(*args).serialize())
    assert exported.platforms == PLATFORMS
    return exported.call


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def assert_same(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), actual, expected)


@pytest.mark.parametrize("name", FACTORIES)
def test_a_transformation_of_parameters_of_any_size(name):
    tx = FACTORIES[name](NUM_TASKS)
    rows, columns = export.symbolic_shape("rows, columns")
    symbolic = {"w": (rows, columns), "b": (columns,)}
    specs = lambda *lead: {key: jax.ShapeDtypeStruct((*lead, *shape), jnp.float32) for key, shape in symbolic.items()}
    state = tx.init(None)
    call = there_and_back(tx.update, specs(NUM_TASKS), state, specs())
    for rows, columns in SIZES:
        params = {"w": draw(0, rows, columns), "b": draw(1, columns)}
        task_grads = {"w": draw(2, NUM_TASKS, rows, columns), "b": draw(3, NUM_TASKS, columns)}
        assert_same(call(task_grads, state, params), jax.jit(tx.update)(task_grads, state, params))


def losses_fn(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["trunk"]) @ params["heads"] - y) ** 2, axis=0)


def test_a_matrix_free_direction_of_parameters_of_any_size():
    direction = lambda *args: mtl.descent_direction(
        losses_fn, args[0], mtl.weightings.mgda, *args[1:], method="matrix_free"
    )
    batch, width = export.symbolic_shape("batch, width")
    spec = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    symbolic = {"trunk": spec(5, width), "heads": spec(width, NUM_TASKS)}
    call = there_and_back(direction, symbolic, spec(batch, 5), spec(batch, NUM_TASKS))
    for batch, width in SIZES:
        params = {"trunk": draw(0, 5, width), "heads": draw(1, width, NUM_TASKS)}
        args = params, draw(2, batch, 5), draw(3, batch, NUM_TASKS)
        losses, update, info = call(*args)
        assert_same((losses, update, info), jax.jit(direction)(*args))
