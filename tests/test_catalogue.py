"""What methods claim to need, sum to and cost against what they do, and the catalogue that their README shows."""

import inspect
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS, PLAIN

import mtlgrad_jax as mtl

NUM_PARAMS = 1000

every_plain_method = pytest.mark.parametrize("case", PLAIN, ids=str)


def num_tasks_of(case):
    return min(3, case.claims.max_tasks or 3)


def jitted_update(tx):
    """Compile a step on gradients of two numbers, handed all that any method wants; every user shares one program."""
    return jax.jit(
        lambda grads, state, params, losses: tx.update(grads, state, params, losses=losses, second_task_grads=grads)
    )


def refuses(function):
    try:
        function()
    except ValueError:
        return True
    return False


def takes_one_gradient(case):
    return refuses(lambda: case.make(num_tasks_of(case)).update(jnp.ones((num_tasks_of(case), 2)), initial_state(case)))


def initial_state(case):
    return case.make(num_tasks_of(case)).init(jnp.ones(2))


@every_plain_method
def test_needs_are_what_the_method_asks_for(case):
    num_tasks = num_tasks_of(case)
    tx, state = case.make(num_tasks), initial_state(case)
    rows, losses = jnp.ones((num_tasks, 2)), jnp.ones(num_tasks)
    first = rows[0] if case.one_per_step else rows
    step = lambda **extras: jax.eval_shape(lambda state: tx.update(first, state, jnp.ones(2), **extras), state)
    asked = {
        "R": hasattr(inspect.getmodule(getattr(mtl, case.name)), "rows") or case.one_per_step,
        "L": refuses(lambda: step(second_task_grads=rows)),
        "S": refuses(lambda: case.make(None)),
        "K": "key" in inspect.signature(getattr(mtl, case.name)).parameters,
        "X": refuses(lambda: step(losses=losses)),
        "O": refuses(lambda: tx.update(rows, state, jnp.ones(2), losses=losses, second_task_grads=rows)),
    }
    assert "".join(letter for letter, present in asked.items() if present) == case.claims.needs


def value_of(case):
    """The number that the claimed sum means for unit gradients and losses of one."""
    default = lambda option: inspect.signature(getattr(mtl, case.name)).parameters[option].default
    text = case.claims.sums_to.replace("/‖g‖", "").replace("/L", "").replace("−", "-").replace("λ(", "λ*(")
    text = re.sub(r"√T", "math.sqrt(T)", text)
    num_tasks = num_tasks_of(case)
    symbols = {"T": num_tasks, "math": math, "min": min, "max": max}
    symbols["Σw"] = sum(case.claims.options(num_tasks).get("weights", ()))
    if "c" in text.split():
        symbols["c"] = default("c")
    if "λ" in text:
        symbols["λ"] = default("strength")
    return eval(text, {"__builtins__": {}}, symbols)


@pytest.mark.parametrize("case", [case for case in PLAIN if not case.one_per_step], ids=str)
def test_when_all_tasks_agree_the_weights_sum_to_what_is_claimed(case):
    """The update is that multiple of the common gradient, after enough steps for averages to settle."""
    num_tasks = num_tasks_of(case)
    shared = jnp.array([0.6, 0.8])
    rows, losses = jnp.tile(shared, (num_tasks, 1)), jnp.ones(num_tasks)
    tx = case.make(num_tasks)
    step, state = jitted_update(tx), tx.init(jnp.ones(2))
    for _ in range(20):
        update, state = step(rows, state, jnp.ones(2), losses)
    np.testing.assert_allclose(update, value_of(case) * shared, rtol=1e-4)


@every_plain_method
def test_memory_is_what_is_claimed(case):
    num_tasks = num_tasks_of(case)
    state = jax.eval_shape(case.make(num_tasks).init, jnp.ones(NUM_PARAMS))
    held = round(sum(leaf.size for leaf in jax.tree.leaves(state)) / NUM_PARAMS)
    match = re.search(r"(T \+ 2|T|1) gradients?$", case.claims.costs)
    expected = 0 if match is None else {"T + 2": num_tasks + 2, "T": num_tasks, "1": 1}[match[1]]
    assert held == expected


def test_every_file_of_methods_is_a_method_that_is_exported():
    assert mtl.methods.names() == [case.name for case in PLAIN]
    for case in METHODS:
        factory = getattr(mtl, case.name)
        assert inspect.getmodule(factory) is getattr(mtl.methods, case.name)
        has_weights = {"weights", "weighting"} & set(vars(inspect.getmodule(factory)))
        assert bool(has_weights) == hasattr(mtl.weightings, case.name)


def test_the_readme_of_the_methods_shows_the_catalogue():
    readme = (pathlib.Path(mtl.methods.__file__).parent / "README.md").read_text()
    assert mtl.methods.catalogue() in readme
    assert f"{len(PLAIN)} methods" in readme
