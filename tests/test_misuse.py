"""What users get wrong most often, asked of every transformation: one sentence that says what to do."""

import inspect
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from test_optax_questions import ONE_GRADIENT, TRANSFORMATIONS, make, num_tasks_of

import mtlgrad_jax as mtl

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
