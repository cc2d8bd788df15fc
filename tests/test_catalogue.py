"""The table of methods in `weightings.__doc__` against the code: it cannot drift."""

import inspect
import math
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS

import mtlgrad_jax as mtl

LETTERS = {
    "non_conflicting": "C",
    "primary_aux": "A",
    "permutation": "P",
    "linear_under_scaling": "L",
    "strongly_stationary": "Z",
}
NUM_PARAMS = 1000


def read_table():
    lines = [line for line in mtl.weightings.__doc__.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: dict(zip(("problem", "promises", "needs", "sum", "cost"), row[1:], strict=True)) for row in cells}


TABLE = read_table()


def factories():
    """The Optax factories of methods: they take num_tasks and the policy, and weigh tasks."""
    not_methods = {"aggregate", "accumulate", "guided_masking"}
    named = {name: getattr(mtl.transforms, name) for name in mtl.transforms.__all__ if name not in not_methods}
    return {
        name
        for name, make in named.items()
        if callable(make) and {"num_tasks", "nonfinite"} <= set(inspect.signature(make).parameters)
    }


def make(name, num_tasks, **options):
    if name == "constant":
        options["weights"] = (0.5, 1.0, 2.0)
    return getattr(mtl, name)(num_tasks, **options)


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


def needs(name):
    num_tasks = 2 if name == "dcgd" else 3
    parameters = inspect.signature(getattr(mtl, name)).parameters
    rows, losses = jnp.ones((num_tasks, 2)), jnp.ones(num_tasks)
    tx = make(name, num_tasks)
    state = jax.eval_shape(tx.init, jnp.ones(2))
    one = {"task": 0} if name == "momentum_conflict_free" else {}
    first = rows[0] if one else rows
    step = lambda **extras: jax.eval_shape(lambda state: tx.update(first, state, jnp.ones(2), **one, **extras), state)
    source = inspect.getsource(sys.modules.get(f"mtlgrad_jax.transforms.{name}", inspect))
    letters = {
        "R": "RowMethod" in source,
        "L": refuses(lambda: step(second_task_grads=rows)),
        "S": refuses(lambda: make(name, None)),
        "K": "key" in parameters,
        "X": refuses(lambda: step(losses=losses)),
    }
    return "".join(letter for letter, present in letters.items() if present)


def test_every_method_has_a_row_and_every_row_a_method():
    assert set(TABLE) == factories()
    assert all(hasattr(mtl, name) for name in TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_needs_are_what_the_method_asks_for(name):
    assert needs(name) == TABLE[name]["needs"]


@pytest.mark.parametrize("name", [name for name in TABLE if name in METHODS])
def test_promises_are_those_that_are_tested(name):
    kept = "".join(letter for promise, letter in LETTERS.items() if METHODS[name].keeps(promise))
    assert TABLE[name]["promises"] == kept


def value_of(text, name):
    """The number that a cell of the table means for unit gradients and losses of one."""
    default = lambda option: inspect.signature(getattr(mtl, name)).parameters[option].default
    text = text.replace("/‖g‖", "").replace("/L", "").replace("−", "-").replace("λ(", "λ*(")
    text = re.sub(r"√T", "math.sqrt(T)", text)
    symbols = {"T": 2 if name == "dcgd" else 3, "math": math, "min": min, "max": max, "Σw": 3.5}
    if "c" in text.split():
        symbols["c"] = default("c")
    if "λ" in text:
        symbols["λ"] = default("strength")
    return eval(text, {"__builtins__": {}}, symbols)


@pytest.mark.parametrize("name", [name for name in TABLE if name != "momentum_conflict_free"])
def test_when_all_tasks_agree_the_weights_sum_to_what_the_table_says(name):
    """The update is that multiple of the common gradient, after enough steps for averages to settle."""
    num_tasks = 2 if name == "dcgd" else 3
    shared = jnp.array([0.6, 0.8])
    rows, losses = jnp.tile(shared, (num_tasks, 1)), jnp.ones(num_tasks)
    tx = make(name, num_tasks)
    step, state = jitted_update(tx), tx.init(jnp.ones(2))
    for _ in range(20):
        update, state = step(rows, state, jnp.ones(2), losses)
    np.testing.assert_allclose(update, value_of(TABLE[name]["sum"], name) * shared, rtol=1e-4)


@pytest.mark.parametrize("name", TABLE)
def test_memory_is_what_the_table_says(name):
    num_tasks = 2 if name == "dcgd" else 3
    state = jax.eval_shape(make(name, num_tasks).init, jnp.ones(NUM_PARAMS))
    held = round(sum(leaf.size for leaf in jax.tree.leaves(state)) / NUM_PARAMS)
    match = re.search(r"(T \+ 2|T|1) gradients?$", TABLE[name]["cost"])
    expected = 0 if match is None else {"T + 2": num_tasks + 2, "T": num_tasks, "1": 1}[match[1]]
    assert held == expected


def test_the_readme_shows_the_same_table():
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    lines = [line for line in mtl.weightings.__doc__.splitlines() if line.startswith("|")]
    assert "\n".join(lines) in readme
    assert f"{len(TABLE)} methods" in readme
