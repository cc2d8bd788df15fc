"""What Optax asks of its own transformations, asked of every public function of ours that returns one.

No list of names: what is annotated to return a transformation is asked. Questions about types are asked of the traced
program, which costs no compilation; each transformation is compiled once, for the training that must converge.
"""

import contextlib
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import PLAIN
from jax import lax
from test_catalogue import jitted_update

import mtlgrad_jax as mtl

KINDS = (optax.GradientTransformation, optax.GradientTransformationExtraArgs)
TRANSFORMATIONS = {
    name: value
    for name, value in ((name, getattr(mtl, name)) for name in mtl.__all__)
    if inspect.isfunction(value) and inspect.signature(value).return_annotation in KINDS
}
REQUIRED = {  # arguments without a default
    "accumulate": {"transform": mtl.mean(), "every_k": 1},
    "adam_relu_l2": {"learning_rate": 1.0},
    "aggregate": {"weighting": mtl.weightings.mean},
    "clip_task_norms": {"max_norm": 1.0},
    "for_tasks": {"transform": mtl.mean(), "tasks": (0, 1, 2)},
    "guard": {"optimizer": optax.chain(mtl.mean(), optax.scale(-1.0))},
    "trunk_and_heads": {"aggregation": mtl.mean(), "mask": True},
}
CASES = {case.name: case for case in PLAIN}
ONE_GRADIENT = (  # take a gradient shaped like the parameters
    "adam_relu_l2",
    "relu_l2_project",
    *(case.name for case in PLAIN if case.one_per_step),
)
WIDE = ("float64", "complex128")
TREES = {  # the types of the leaves of a tree
    "halves": ("bfloat16", "float16"),
    "double": ("float64",),
    "everything": ("bfloat16", "float16", "float32", "complex64", *WIDE),
}


def test_every_method_is_asked():
    assert set(mtl.methods.names()) <= set(TRANSFORMATIONS)


def num_tasks_of(name):
    most = CASES[name].claims.max_tasks if name in CASES else None
    return 3 if most is None else most


def required(name):
    return CASES[name].claims.options(num_tasks_of(name)) if name in CASES else REQUIRED.get(name, {})


def make(name, **options):
    """Return a transformation at its defaults."""
    options = dict(required(name)) | options
    if "num_tasks" in inspect.signature(TRANSFORMATIONS[name]).parameters:
        options["num_tasks"] = num_tasks_of(name)
    return optax.with_extra_args_support(TRANSFORMATIONS[name](**options))


def arguments(name, params):
    """Return the gradients of a step, and extra arguments of which every method wants at most one or two."""
    num_tasks = num_tasks_of(name)
    rows = jax.tree.map(lambda leaf: jnp.ones((num_tasks, *leaf.shape), leaf.dtype), params)
    extras = {"losses": jnp.ones(num_tasks, jnp.float32), "second_task_grads": rows, "unexpected": jnp.ones(())}
    return (jax.tree.map(lambda leaf: leaf[0], rows) if name in ONE_GRADIENT else rows), extras


def result_of(name, params):
    """Return a tree shaped like the update: all shorten T rows to one, but for clipping."""
    return arguments(name, params)[0] if name == "clip_task_norms" else params


def types(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)


@contextlib.contextmanager
def precision_of(name, dtypes):
    """Allow the wide types where they are asked about, and promotion within Optax's own Adam."""
    with (
        jax.enable_x64(any(dtype in WIDE for dtype in dtypes)),
        jax.numpy_dtype_promotion("standard" if name == "adam_relu_l2" else "strict"),
    ):
        yield


def test_every_method_of_the_catalogue_is_asked():
    assert set(CASES) < set(TRANSFORMATIONS) and len(CASES) > 40


def parameters_of(value):
    return inspect.signature(value).parameters if inspect.isfunction(value) else {}


@pytest.mark.parametrize("dtypes", TREES.values(), ids=TREES)
@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_types_of_updates_and_state_are_stable_under_scan_and_cond(name, dtypes):
    with precision_of(name, dtypes):
        params = {dtype: jnp.ones((2, 3), dtype) for dtype in dtypes} | {"scalar": jnp.ones((), dtypes[0])}
        tx, (grads, extras) = make(name), arguments(name, params)
        start = jax.eval_shape(tx.init, params)

        def step(state, _):
            update, new = tx.update(grads, state, params, **extras)
            assert types(new) == types(state)
            assert types(update) == types(result_of(name, params))
            any_update = jnp.any(update["scalar"] != 0)
            return lax.cond(any_update, lambda: new, lambda: state), update

        end, _ = jax.eval_shape(lambda state: lax.scan(step, state, length=2), start)
        assert types(end) == types(start)


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_init_takes_whatever_optax_hands_it_and_params_are_found_in_the_state(name):
    tx = make(name)
    params = {"w": jnp.ones((5, 7)), "b": jnp.ones(11)}
    state = tx.init(params)
    abstract = jax.eval_shape(lambda: params)
    assert types(jax.eval_shape(tx.init, abstract)) == types(jax.eval_shape(lambda: tx.init(abstract))) == types(state)
    for empty in ({"w": None}, {"w": optax.MaskedNode()}, (), None):
        tx.init(empty)
    marked = optax.tree.map_params(tx, lambda leaf: "params", state, transform_non_params=lambda leaf: "other")
    has_params = jax.tree.map(lambda leaf: "params" if set(leaf.shape) & {5, 7, 11} else "other", state)
    assert marked == has_params
    chex.assert_trees_all_equal(optax.tree.map_params(tx, lambda leaf: leaf, state), state)


def numbers_of(name):
    """Split the parameters of a factory into numbers, which can be injected, and what must be static."""
    parameters = inspect.signature(TRANSFORMATIONS[name]).parameters.values()
    is_number = {p.name: "float" in str(p.annotation) or p.annotation == optax.ScalarOrSchedule for p in parameters}
    return [key for key, number in is_number.items() if number], [
        key for key, number in is_number.items() if not number
    ]


@pytest.mark.parametrize("name", [name for name in TRANSFORMATIONS if numbers_of(name)[0]])
def test_numbers_can_be_injected(name):
    """As arrays in the state, whatever they are; a Python `if` on one of them would fail under this trace."""
    with jax.numpy_dtype_promotion("standard"):
        numbers, static = numbers_of(name)
        options = dict(required(name)) | ({"num_tasks": num_tasks_of(name)} if "num_tasks" in static else {})
        injected = optax.inject_hyperparams(TRANSFORMATIONS[name], static_args=static)(**options)
        params = {"w": jnp.ones((2, 3))}
        (grads, extras), start = arguments(name, params), jax.eval_shape(injected.init, params)
        step = lambda state: injected.update(grads, state, params, **extras)
        update, end = jax.eval_shape(step, start)
        defaults = {key: p.default for key, p in inspect.signature(TRANSFORMATIONS[name]).parameters.items()}
        assert set(start.hyperparams) == {key for key in numbers if isinstance((defaults | options)[key], float)}
        assert types(end) == types(start)
        assert types(update) == types(result_of(name, params))


HESSIANS = np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.4, -0.2], [-0.2, 1.2]], [[0.8, 0.1], [0.1, 0.3]]], np.float32)
NUM_STEPS = 500


@pytest.mark.parametrize("name", [name for name in TRANSFORMATIONS if name != "freeze"])  # which moves nothing
def test_every_loss_falls_to_a_hundredth_in_one_compiled_program(name):
    """Three bowls with one common bottom, steps no longer than 0.2 and shrinking to zero; the extras change nothing."""
    tx, hessians = make(name), HESSIANS[: num_tasks_of(name)]
    step, state, position = jitted_update(tx), tx.init(jnp.ones(2)), np.array([2.0, -1.5], np.float32)
    start = None
    with jax.numpy_dtype_promotion("standard" if name == "adam_relu_l2" else "strict"):
        for number in range(NUM_STEPS):
            rows = hessians @ position
            losses = rows @ position / 2
            start = losses if start is None else start
            grads = {"momentum_conflict_free": rows[number % len(rows)]}.get(name, rows.mean(0))
            update, state = step(grads if name in ONE_GRADIENT else rows, state, position, losses)
            update = np.asarray(update).reshape(-1, 2).mean(0) * (-1 if name in ("adam_relu_l2", "guard") else 1)
            position -= 0.2 * (1 - number / NUM_STEPS) * update / max(np.linalg.norm(update), 1)
    assert np.all(hessians @ position @ position / 2 < 1e-2 * start), losses / start
    assert step._cache_size() == 1


@pytest.mark.parametrize("name", ["accumulate", "trimmed_mean", "loss_balanced", "moco", "bloop", "modo"])
def test_complex_leaves_are_their_real_and_imaginary_parts(name):
    """Asked of those that do not follow from JJᵀ alone, for which `test_stacked.py` asks it.

    `excess_mtl` and `momentum_conflict_free` scale by |g|, as Adam does, and `graddrop` draws anew for every leaf.
    """
    tx, (real, imaginary) = make(name), jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)), jnp.float32)

    @jax.jit
    def update_of(rows):
        state = tx.init(jax.tree.map(lambda leaf: leaf[0], rows))
        return tx.update(rows, state, losses=jnp.ones(3), second_task_grads=rows)[0]

    update = update_of(lax.complex(real, imaginary))
    np.testing.assert_allclose((update.real, update.imag), update_of((real, imaginary)), rtol=1e-5, atol=1e-6)
