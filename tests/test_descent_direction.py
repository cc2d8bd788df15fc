"""Losses, direction and evidence in one call."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import PLAIN, draw
from jax import lax

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import WAYS, matrix_free, shared_encoder

METHODS = pytest.mark.parametrize(
    "method",
    ["stacked", "matrix_free", partial(matrix_free.linearize, mode="reverse", chunk_size=2)],
    ids=["stacked", "matrix_free", "function"],
)
X = jax.random.normal(jax.random.key(0), (16, 6))
Y = jax.random.normal(jax.random.key(1), (16, 4))
PARAMS = {"trunk": jax.random.normal(jax.random.key(2), (6, 5)), "heads": jax.random.normal(jax.random.key(3), (5, 4))}


def losses_fn(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["trunk"]) @ params["heads"] - y) ** 2, axis=0)


@METHODS
def test_agrees_with_the_transformation(method):
    losses, update, info = jax.jit(
        lambda params: mtl.descent_direction(losses_fn, params, mtl.weightings.mgda, X, Y, method=method)
    )(PARAMS)
    wanted_losses, task_grads = mtl.task_value_and_grad(losses_fn)(PARAMS, X, Y)
    tx = mtl.mgda(num_tasks=4)
    wanted, state = tx.update(task_grads, tx.init(PARAMS), PARAMS)
    assert jnp.allclose(losses, wanted_losses)
    assert jnp.allclose(info.gram, state.gram, rtol=1e-5, atol=1e-6)
    assert jnp.allclose(info.weights, state.weights, atol=1e-5)
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-4, atol=1e-5), update, wanted))
    assert info.gap < 1e-5


@METHODS
@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_weights_with_a_unit_reach_the_update(method, scale):
    """Inverse-norm weights are 1/‖gᵢ‖: the update does not depend on the scale of the losses."""
    weighting = partial(mtl.weightings.mgda, normalization="l2")
    _, wanted, _ = mtl.descent_direction(losses_fn, PARAMS, weighting, X, Y)
    _, update, info = mtl.descent_direction(
        lambda *args: losses_fn(*args) * scale, PARAMS, weighting, X, Y, method=method
    )
    assert info.log2_scale != 0
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-3, atol=1e-5), update, wanted))


@METHODS
def test_the_weighting_sees_losses_and_auxiliary_data_comes_back(method):
    (losses, aux), _, info = mtl.descent_direction(
        lambda *args: (losses_fn(*args), "aux"),
        PARAMS,
        partial(mtl.weightings.mgda, normalization="loss"),
        X,
        Y,
        method=method,
        has_aux=True,
    )
    assert aux == "aux"
    assert losses.shape == info.weights.shape == (4,)


@METHODS
def test_a_method_with_memory_is_scanned(method):
    weighting = mtl.weightings.pcd()

    def step(carry, _):
        params, memory = carry
        losses, update, info = mtl.descent_direction(losses_fn, params, weighting, X, Y, method=method, memory=memory)
        return (optax.apply_updates(params, jax.tree.map(lambda leaf: -0.1 * leaf, update)), info.memory), losses

    _, losses = lax.scan(step, (PARAMS, weighting.init(4)), length=30)
    assert losses[-1, 0] < 0.8 * losses[0, 0]


@pytest.mark.standard_promotion
@METHODS
def test_trains_with_a_plain_optimiser(method):
    tx = optax.adam(0.03)

    def step(carry, _):
        params, state = carry
        losses, update, _ = mtl.descent_direction(losses_fn, params, mtl.weightings.upgrad, X, Y, method=method)
        updates, state = tx.update(update, state, params)
        return (optax.apply_updates(params, updates), state), losses

    _, losses = lax.scan(step, (PARAMS, tx.init(PARAMS)), length=100)
    assert jnp.all(losses[-1] < losses[0])


def test_the_encoder_below_all_tasks_is_a_method_too():
    def split(losses_fn, params, *args, has_aux=False):
        return shared_encoder.linearize(
            lambda trunk, x, y: jnp.tanh(x @ trunk),
            lambda heads, hidden, x, y: jnp.mean((hidden @ heads - y) ** 2, axis=0),
            (params["trunk"], params["heads"]),
            *args,
            has_aux=has_aux,
        )

    losses, update, info = mtl.descent_direction(losses_fn, PARAMS, mtl.weightings.mgda, X, Y, method=split)
    assert jnp.allclose(losses, losses_fn(PARAMS, X, Y))
    assert update[0].shape == PARAMS["trunk"].shape
    assert info.gap < 1e-5


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match=f"expected method to be one of {', '.join(WAYS)} or a function, got 'fast'"):
        mtl.descent_direction(losses_fn, PARAMS, mtl.weightings.mgda, X, Y, method="fast")


def loss(params, x):
    """Of one task, which is one example too."""
    return jnp.tanh(jnp.vdot(x, params)) ** 2 + jnp.sum((params - x) ** 2)


all_losses = lambda params, x: jax.vmap(loss, (None, 0))(params, x)
POINT = jnp.asarray(draw("gaussian", 8)[7, :6])
PROBLEMS = dict.fromkeys(WAYS, (all_losses, POINT, lambda x: x)) | {  # one and the same J, as every way wants it
    "per_example": (loss, POINT, lambda x: x),  # functions, parameters, and from x the rest
    "separate": ([loss] * 3, POINT, list),
    "shared_encoder": (
        (lambda encoder, x: encoder, lambda heads, hidden, x: all_losses(hidden, x) + 0 * heads),
        (POINT, jnp.zeros(())),
        lambda x: x,
    ),
}
HOLD_ROWS = ("stacked", "separate")
DESCENDS = [case for case in PLAIN if not case.one_per_step]


def method_of(case):
    """Return what `descent_direction` takes for a method of the catalogue."""
    module, options = getattr(mtl.methods, case.name), case.claims.options(case.num_tasks)
    for maker in ("rows", "weighting"):
        if hasattr(module, maker):
            return getattr(module, maker)(**options)
    if not hasattr(module, "weights"):  # a combinator with a factory
        return mtl.weightings.smoothed(mtl.weightings.mgda)
    weights = partial(module.weights, **options)
    return mtl.weightings.keyed(weights, 0) if "K" in case.claims.needs else weights


def descend(case, way):
    functions, params, rest = PROBLEMS[way]
    functions = functions[: case.num_tasks] if isinstance(functions, list) else functions
    x = jnp.asarray(draw("gaussian", 8)[: case.num_tasks, :6])
    second = {"second_task_grads": jax.jacrev(all_losses)(POINT, -x)} if "X" in case.claims.needs else {}
    return mtl.descent_direction(functions, params, method_of(case), rest(x), method=way, **second)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", DESCENDS, ids=str)
def test_every_way_serves_every_method_that_it_can(case, way):
    """Rows of J, or those of a second batch, are for ways that hold rows; all others take any.

    At a representation there are rows too, for a method that remembers none.
    """
    forgetful = way == "shared_encoder" and not {"S", "X"} & set(case.claims.needs)
    if way not in HOLD_ROWS and {"R", "X"} & set(case.claims.needs) and not forgetful:
        with pytest.raises(ValueError, match=r'on the rows of J, got \w+, which does not hold them; pass method="stac'):
            jax.eval_shape(lambda: descend(case, way))
        return
    losses, update, info = jax.eval_shape(lambda: descend(case, way))
    assert jax.tree.map(jnp.shape, update) == jax.tree.map(jnp.shape, PROBLEMS[way][1])
    assert losses.shape == info.weights.shape == info.finite.shape == (case.num_tasks,)
    assert bool(jax.tree.leaves(info.memory)) == bool({"S", "K"} & set(case.claims.needs))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", [case for case in DESCENDS if str(case) in ("mgda", "gradnorm", "nash_mtl")], ids=str)
def test_all_ways_agree_with_the_transformation(case, way):
    x = jnp.asarray(draw("gaussian", 8)[: case.num_tasks, :6])
    wanted_losses, rows = all_losses(POINT, x), jax.jacrev(all_losses)(POINT, x)
    tx = case.make(case.num_tasks)
    wanted, state = tx.update(rows, tx.init(POINT), **case.extras(rows, wanted_losses))
    losses, update, info = jax.jit(lambda: descend(case, way))()
    update = update[0] if way == "shared_encoder" else update
    for actual, expected in ((losses, wanted_losses), (update, wanted), (info.weights, state.weights)):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
