"""Gradients of matrices come in the order of the matrices: for every way to write a layer, and with the same values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians._parameter_order import in_parameter_order

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((5, 4)), jnp.float32)
STEEP = jnp.asarray(RNG.standard_normal((3, 6)), jnp.float32)  # how a loss weighs what a layer gives, by task


def heads(y):
    return (jnp.tanh(y) ** 2 @ STEEP.reshape(3, -1)[:, : y.shape[-1]].T).reshape(-1, 3).mean(axis=0)


def scanned(params, x):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params)[0]


LAYERS = {  # the parameters, and the layer
    "product": ((4, 6), lambda w, x: x @ w),
    "einsum": ((4, 6), lambda w, x: jnp.einsum("bi,io->bo", x, w)),
    "in parts": ((4, 2, 3), lambda w, x: jnp.einsum("bi,ijk->bjk", x, w).reshape(5, 6)),
    "several axes in": ((2, 2, 6), lambda w, x: jnp.einsum("bij,ijo->bo", x.reshape(5, 2, 2), w)),
    "left": ((6, 4), lambda w, x: (w @ x.T).T),
    "precision": ((4, 6), lambda w, x: jnp.dot(x, w, precision=(lax.Precision.HIGHEST, lax.Precision.DEFAULT))),
    "jit": ((4, 6), jax.jit(lambda w, x: x @ w)),
    "checkpoint": ((4, 6), jax.checkpoint(lambda w, x: jnp.tanh(x @ w))),
    "scan": ((2, 4, 4), scanned),
    "read twice": ((4, 4), lambda w, x: x @ w + jnp.tanh(x @ w.T)),
}


def programs(jaxpr):
    yield jaxpr
    for eqn in jaxpr.eqns:
        for inner in jax.tree.leaves(tuple(eqn.params.values()), is_leaf=lambda param: hasattr(param, "eqns")):
            if hasattr(inner, "eqns"):
                yield from programs(getattr(inner, "jaxpr", inner))


def turned_products(jaxpr):
    """Return how many transpositions of products there are, in a program and what it calls."""
    count = 0
    for program in programs(jaxpr):
        products = {eqn.outvars[0] for eqn in program.eqns if eqn.primitive.name == "dot_general"}
        count += sum(eqn.primitive.name == "transpose" and eqn.invars[0] in products for eqn in program.eqns)
    return count


def pull_back_of(layer, shape):
    params = jnp.asarray(RNG.standard_normal(shape), jnp.float32) / 2
    losses, pull_back = jax.vjp(lambda params: heads(layer(params, X)), params)
    return params, jax.make_jaxpr(pull_back)(losses)


@pytest.mark.parametrize("name", LAYERS)
def test_no_product_is_turned_around_and_nothing_else_changes(name):
    shape, layer = LAYERS[name]
    _, program = pull_back_of(layer, shape)
    ordered = in_parameter_order(program.jaxpr)
    assert turned_products(ordered) == 0
    assert in_parameter_order(program.jaxpr) is ordered  # by which a compiled program is found again
    assert in_parameter_order(ordered) is ordered
    seed = jnp.array([1.0, -2.0, 0.5])
    expected = jax.core.eval_jaxpr(program.jaxpr, program.consts, seed)
    np.testing.assert_allclose(jax.core.eval_jaxpr(ordered, program.consts, seed)[0], expected[0], rtol=1e-6, atol=1e-6)


def test_most_layers_had_one_to_turn():
    assert sum(turned_products(pull_back_of(layer, shape)[1].jaxpr) > 0 for shape, layer in LAYERS.values()) >= 7


@pytest.mark.parametrize("name", LAYERS)
def test_the_stack_is_that_of_reverse_mode(name):
    shape, layer = LAYERS[name]
    params, _ = pull_back_of(layer, shape)
    losses_fn = lambda params: heads(layer(params, X))
    for chunk_size in (None, 2):
        _, rows = jax.jit(mtl.task_value_and_grad(losses_fn, chunk_size=chunk_size))(params)
        np.testing.assert_allclose(rows, jax.jacrev(losses_fn)(params), rtol=2e-5, atol=1e-6)


def test_its_derivative_is_that_of_reverse_mode():
    shape, layer = LAYERS["product"]
    params, _ = pull_back_of(layer, shape)
    losses_fn = lambda params: heads(layer(params, X))
    ours = jax.grad(lambda params: jnp.sum(mtl.task_value_and_grad(losses_fn)(params)[1] ** 3))(params)
    theirs = jax.grad(lambda params: jnp.sum(jax.jacrev(losses_fn)(params) ** 3))(params)
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-6)


@pytest.mark.skipif(jax.device_count() > 1, reason="where parameters may be split, layouts are the compiler's business")
def test_a_lone_device_writes_one_row_after_the_other():
    width, tasks = 64, 3
    params = jnp.asarray(RNG.standard_normal((4, width)), jnp.float32)
    losses_fn = lambda params: (jnp.tanh(X @ params) ** 2)[:, :tasks].mean(axis=0)
    text = jax.jit(mtl.task_value_and_grad(losses_fn)).lower(params).compile().as_text()
    assert f"f32[{tasks},4,{width}]{{2,1,0}} dot(" in text
    batch = jnp.tile(X, (200, 1))  # copies of so many rows would take more room than the gradients
    text = jax.jit(mtl.task_value_and_grad(lambda w: (jnp.tanh(batch @ w) ** 2)[:, :tasks].mean(axis=0))).lower(params)
    assert f"f32[{tasks},1000,4]" not in text.compile().as_text()
