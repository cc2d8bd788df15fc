"""What users get wrong most often, asked of every transformation: one sentence that says what to do."""

import functools
import inspect
import pickle
import pkgutil
import pydoc
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import PLAIN, draw, every_plain_method
from test_optax_questions import CASES, ONE_GRADIENT, TRANSFORMATIONS, make, num_tasks_of

import mtlgrad_jax as mtl
from mtlgrad_jax.typing import StatefulWeighting

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(())}
STACKED = [name for name in TRANSFORMATIONS if name not in ONE_GRADIENT]
ADVICE = "; stack one gradient per task along a new leading axis, as mtl.task_value_and_grad does"


def tree(*shapes, dtype=jnp.float32):
    return dict(zip("wb", (jnp.ones(shape, dtype) for shape in shapes), strict=True))


MISUSES = {  # gradients for three tasks (two for dcgd), and the sentence
    "missing task axis in a leaf": (
        lambda t: tree((t, 2, 3), ()),
        rf"of one and the same T, got .*b'\]: float32\(\).*{ADVICE}",
    ),
    "different T across leaves": (lambda t: tree((t, 2, 3), (t + 1,)), f"of one and the same T, got .*{ADVICE}"),
    "gradients of the parameters' shape": (lambda t: PARAMS, f"the parameters' own shapes .*{ADVICE}"),
    "gradients of another shape": (lambda t: tree((t, 3, 2), (t,)), rf"for a parameter of shape \(2, 3\) .*{ADVICE}"),
    "no task": (lambda t: tree((0, 2, 3), (0,)), f"for at least one task, got .*{ADVICE}"),
    "empty tree": (lambda t: {}, rf"without floating-point leaves: \{{\}}{ADVICE}"),
    "integer gradients": (
        lambda t: tree((t, 2, 3), (t,), dtype=jnp.int32),
        rf"without floating-point leaves: .*int32\(\d, 2, 3\).*{ADVICE}",
    ),
}


def sentence_of(call):
    with pytest.raises(ValueError) as raised:
        jax.eval_shape(call)
    sentence = str(raised.value)
    assert "\n" not in sentence and sentence.endswith(".") and len(re.findall(r"\.\s+[A-Z]", sentence)) == 0
    return sentence


def step(tx, grads, params=PARAMS):
    extras = {"losses": jnp.ones(3), "second_task_grads": grads}
    return lambda: optax.with_extra_args_support(tx).update(grads, tx.init(PARAMS), params, **extras)


@pytest.mark.parametrize("misuse", MISUSES)
@pytest.mark.parametrize("name", STACKED)
def test_wrong_gradients_are_explained_by_every_transformation(name, misuse):
    grads, sentence = MISUSES[misuse]
    assert re.search(sentence, sentence_of(step(make(name), grads(num_tasks_of(name)))))


@pytest.mark.parametrize(
    "name", [name for name in STACKED if "num_tasks" in inspect.signature(TRANSFORMATIONS[name]).parameters]
)
def test_another_number_of_tasks_is_named(name):
    t = num_tasks_of(name)
    sentence = sentence_of(step(make(name), tree((t + 1, 2, 3), (t + 1,))))
    assert f"for num_tasks={t}, got T={t + 1} in" in sentence


@pytest.mark.parametrize("name", STACKED)
def test_not_first_in_the_chain(name):
    grads = tree((num_tasks_of(name), 2, 3), (num_tasks_of(name),))
    assert "put the aggregation first in optax.chain" in sentence_of(step(optax.chain(mtl.mean(), make(name)), grads))


@pytest.mark.parametrize("grads", [tree((3, 2, 3), (3,)), {}, tree((2, 3), (), dtype=jnp.int32), {"w": PARAMS["w"]}])
def test_the_gradient_of_one_task_is_asked_for(grads):
    sentence = sentence_of(step(make("momentum_conflict_free"), grads))
    assert "the plain gradient of one task" in sentence and "pass jax.grad of one loss" in sentence


@pytest.mark.parametrize("name", ["relu_l2_project", "adam_relu_l2"])
def test_parameters_are_asked_for(name):
    with jax.numpy_dtype_promotion("standard"):
        sentence = sentence_of(step(make(name), PARAMS, None))
    assert sentence.startswith("relu_l2_project expected params, got None; call tx.update(updates, state, params)")


OTHER_TREES = {  # than that of the parameters, with t gradients of every leaf
    "a dict of the tasks": lambda t: {f"task {i}": PARAMS for i in range(t)},
    "a tuple of the tasks": lambda t: (PARAMS,) * t,
    "a tuple of stacks": lambda t: (tree((t, 2, 3), (t,)),) * t,
    "one leaf more": lambda t: tree((t, 2, 3), (t,)) | {"more": jnp.ones(t)},
    "one leaf less": lambda t: {"w": jnp.ones((t, 2, 3))},
    "an array": lambda t: jnp.ones((t, 7)),
}


@pytest.mark.parametrize("other", OTHER_TREES)
@pytest.mark.parametrize("name", [name for name in TRANSFORMATIONS if name not in ("adam_relu_l2", "relu_l2_project")])
def test_another_tree_than_that_of_the_parameters(name, other):
    sentence = sentence_of(step(make(name), OTHER_TREES[other](num_tasks_of(name))))
    if name in ONE_GRADIENT:
        assert "the plain gradient of one task" in sentence
    else:
        assert "in a tree like the parameters {['b']: float32(), ['w']: float32(2, 3)}, got " in sentence
        assert ADVICE in sentence


@pytest.mark.parametrize("case", [case for case in PLAIN if case.claims.max_tasks is None], ids=str)
def test_a_state_of_another_number_of_tasks(case):
    t = case.num_tasks
    stranger = getattr(mtl, case.name)(t + 1, **case.claims.options(t + 1)).init(PARAMS)
    grads = PARAMS if case.one_per_step else tree((t, 2, 3), (t,))
    for state, described in ((stranger, f"one for {t + 1} tasks"), (optax.EmptyState(), "EmptyState")):
        sentence = sentence_of(lambda state=state: case.make(t).update(grads, state, PARAMS, losses=jnp.ones(t)))
        assert sentence.startswith(f"expected a state for num_tasks={t}, got {described}; call init of")


COMBINATORS = [module.name for module in pkgutil.iter_modules(mtl.combinators.__path__)]


NO_GRAM_MATRIX = {
    "J": (jnp.ones((3, 5)), r"of shape \(T, T\), got \(3, 5\); make it from stacked task gradients with mtl"),
    "a row": (jnp.ones(3), r"of shape \(T, T\), got \(3,\); make it from stacked task gradients with mtl"),
    "a list": ([[1.0, 0.0], [0.0, 1.0]], r"a float array of shape \(T, T\), got a list; make it from"),
    "bfloat16": (jnp.eye(3, dtype=jnp.bfloat16), "float32 or float64 Gram matrix, got bfloat16; make it"),
    "float16": (jnp.eye(3, dtype=jnp.float16), "float32 or float64 Gram matrix, got float16; make it"),
    "integers": (jnp.eye(3, dtype=jnp.int32), "float32 or float64 Gram matrix, got int32; make it"),
}


def weighting_of(name):
    """Return a public weighting as a user would have it: made, where it has to be made."""
    if name in COMBINATORS:
        combine, given = getattr(mtl.weightings, name), {"k": 1, "key": 0}
        inside = mtl.weightings.pcgrad if name == "keyed" else mtl.weightings.mgda
        return combine(inside, **{key: given[key] for key in inspect.signature(combine).parameters if key in given})
    public, options = getattr(mtl.weightings, name), dict(CASES[name].claims.options(3))
    takes_gram = "gram" in inspect.signature(public).parameters
    return functools.partial(public, **options) if takes_gram else public(**options)


def weigh(weighting, gram, num_tasks=3):
    """Call a weighting with all that it names; one with memory through its `update`."""
    stateful = isinstance(weighting, StatefulWeighting)
    function = weighting.update if stateful else weighting
    named = inspect.signature(function).parameters
    given = {"losses": jnp.ones(3), "cross_gram": jnp.eye(3), "key": jax.random.key(0)}
    extras = {name: extra for name, extra in given.items() if name in named}
    return function(gram, *([weighting.init(num_tasks)] if stateful else []), **extras)


@pytest.mark.parametrize("name", mtl.weightings.__all__)
def test_what_is_no_gram_matrix_is_explained_by_every_weighting(name):
    for gram, sentence in NO_GRAM_MATRIX.values():
        assert re.match(f"expected a .*{sentence}", sentence_of(lambda gram=gram: weigh(weighting_of(name), gram)))


WITH_MEMORY = [
    name
    for name in mtl.weightings.__all__
    if isinstance(weighting_of(name), StatefulWeighting) and weighting_of(name).needs_num_tasks
]


@pytest.mark.parametrize("name", WITH_MEMORY)
def test_a_memory_of_another_number_of_tasks(name):
    sentence = sentence_of(lambda: weigh(weighting_of(name), jnp.eye(3), num_tasks=2))
    assert sentence == "expected a state for T=3, as the Gram matrix is, got one for T=2; begin with init(3)."


def test_every_method_that_claims_memory_is_asked_for_it():
    has_weights = [case.name for case in PLAIN if hasattr(mtl.weightings, case.name)]
    assert {*COMBINATORS} | {*has_weights} == {*mtl.weightings.__all__}
    assert {*WITH_MEMORY} - {*COMBINATORS} == {
        name for name in has_weights if "S" in CASES[name].claims.needs and not CASES[name].on_rows
    }


SIGNED = {  # options that are shares of the tasks, or a radius: not below zero
    case.name: option
    for case in PLAIN
    for option in ("preference", "weights", "c")
    if option in inspect.signature(getattr(mtl, case.name)).parameters
}


@pytest.mark.parametrize("name", SIGNED)
def test_what_must_not_be_negative(name):
    option = SIGNED[name]
    below = -0.5 if option == "c" else jnp.array([0.5, -0.25, 0.75])[: num_tasks_of(name)]
    grads = tree((num_tasks_of(name), 2, 3), (num_tasks_of(name),))
    sentence = sentence_of(lambda: step(make(name, **{option: below}), grads)())
    assert re.match(rf"(cagrad )?expected {option} (of at least zero|to be positive),.* got ", sentence)


@every_plain_method
def test_ordinary_steps_hold_no_infinity(case):
    """`jax_debug_infs` looks at what a program returns, the state before the first step too."""
    rows, losses = jnp.asarray(draw("gaussian", 8)[: case.num_tasks, :8]), jnp.arange(1, case.num_tasks + 1)
    tx = case.make(case.num_tasks)
    with jax.debug_infs(True):
        state = jax.jit(tx.init)(rows[0])
        step = jax.jit(lambda grads, state, extras: tx.update(grads, state, **extras))
        for number in range(case.num_tasks):
            extras = {"task": number} if case.one_per_step else case.extras(rows, losses.astype(jnp.float32))
            update, state = step(rows[number] if case.one_per_step else rows, state, extras)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((tx.init(rows[0]), update, state)))


@pytest.mark.parametrize("scope", ["tree", "leaf"])
@pytest.mark.parametrize(
    "updates", [tree((3, 2, 3), (3,)), {"w": PARAMS["w"]}, [PARAMS["w"], PARAMS["b"]]], ids=["stacked", "less", "list"]
)
def test_relu_l2_asks_for_one_gradient_shaped_like_the_parameters(updates, scope):
    tx = mtl.relu_l2_project(scope=scope)
    sentence = sentence_of(lambda: tx.update(updates, tx.init(PARAMS), PARAMS))
    assert sentence.startswith("relu_l2_project expected one gradient shaped like the parameters ")
    assert sentence.endswith("; put the aggregation before it in optax.chain.")


@pytest.mark.parametrize("name", mtl.methods.names())
def test_an_option_that_does_not_exist_names_the_method(name):
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'num_task'"):
        getattr(mtl, name)(num_task=2)


@pytest.mark.parametrize("name", mtl.weightings.__all__)
def test_an_option_that_does_not_exist_names_the_weighting(name):
    function = getattr(mtl.weightings, name)
    with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'prefrence'"):
        function(jnp.eye(2), prefrence=1)
    assert pickle.loads(pickle.dumps(function)) is function
    assert f"function {name} in module" in pydoc.render_doc(function, renderer=pydoc.plaintext)


@pytest.mark.parametrize("weights", [(0.8, 0.2), [0.8, 0.2], np.array([0.8, 0.2]), jnp.array([0.8, 0.2])])
def test_constant_says_where_its_weights_go(weights):
    for options in ({"num_tasks": 2}, {}, {"weights": weights}):
        sentence = sentence_of(lambda options=options: mtl.constant(weights, **options))
        assert sentence.startswith("constant expected num_tasks or nothing before its keywords, got ")
        assert sentence.endswith("; name the weights, as in mtl.constant(weights=(0.8, 0.2)).")
    assert mtl.constant(2, weights=weights).init(PARAMS).weights.shape == (2,)
