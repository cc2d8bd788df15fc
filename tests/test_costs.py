"""What an update costs, counted and not timed: passes over the gradients, sizes, loops, steps, traces."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtlgrad_jax as mtl

METHODS = ("mgda", "primary_aux", "dualproj", "upgrad")
NO_PASS = {"reshape", "convert_element_type", "optimization_barrier", "jit", "pjit", "cond", "custom_jvp_call"}


def equations(jaxpr, into_branches=False):
    """Yield the equations that ordinary gradients meet: everything but the branches, which rescue from rare cases."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name == "cond" and not into_branches:
            continue
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner, into_branches)


def traced(method, num_tasks, sizes=(40, 60)):
    transform = getattr(mtl, method)(num_tasks=num_tasks)
    task_grads = [jnp.ones((num_tasks, size)) for size in sizes]
    state = transform.init([leaf[0] for leaf in task_grads])
    return jax.make_jaxpr(transform.update)(task_grads, state).jaxpr


def num_entries(variable):
    return int(np.prod(variable.aval.shape, dtype=int))


def names(jaxpr):
    return [equation.primitive.name for equation in equations(jaxpr, into_branches=True)]


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_read_twice(method):
    sizes = (1001, 2003)
    readers = [
        equation.primitive.name
        for equation in equations(traced(method, 3, sizes))
        if any(3 * size in map(num_entries, equation.invars) for size in sizes)
        and equation.primitive.name not in NO_PASS
    ]
    assert readers == ["dot_general"] * 2 * len(sizes)


@pytest.mark.parametrize("method", METHODS)
def test_everything_else_is_as_small_as_the_gram_matrix(method):
    num_tasks, sizes = 5, (1001, 2003)
    # Six pieces of the bits of G, so that slopes are in twice the precision; UPGrad solves T programs of T x T.
    largest = 6 * (num_tasks**3 if method == "upgrad" else num_tasks**2)
    given = {scale * size for size in sizes for scale in (1, num_tasks)}
    made = {
        num_entries(variable)
        for equation in equations(traced(method, num_tasks, sizes))
        for variable in equation.outvars
    }
    assert max(made - given) <= largest


@pytest.mark.parametrize("num_tasks", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_one_or_two_tasks_cost_no_loop_and_no_factor(method, num_tasks):
    found = names(traced(method, num_tasks))
    assert {"cholesky", "triangular_solve"}.isdisjoint(found)
    assert found.count("while") == 1  # the rescue from over- and underflow, in its branch
    assert {"while", "scan"}.isdisjoint(equation.primitive.name for equation in equations(traced(method, num_tasks)))


@pytest.mark.parametrize("method", METHODS)
def test_more_tasks_cost_one_factor_a_step(method):
    """UPGrad's programs run together, in the same loop."""
    found = [equation.primitive.name for equation in equations(traced(method, 8))]
    assert found.count("cholesky") == found.count("while") == 1


@pytest.mark.parametrize("method", METHODS)
def test_nothing_leaves_the_device(method):
    assert not [name for name in names(traced(method, 3)) if "callback" in name or name in ("infeed", "outfeed")]


@pytest.mark.parametrize("num_tasks", [8, 32, 128])
def test_steps_hardly_grow_with_the_number_of_tasks(num_tasks):
    keys = jax.random.split(jax.random.key(num_tasks), 5)
    task_grads = jax.vmap(lambda key: jax.random.normal(key, (num_tasks, 2 * num_tasks + 20)))(keys)
    grams = jnp.einsum("bip,bjp->bij", task_grads, task_grads, precision="highest")
    solutions = jax.vmap(mtl.solvers.min_norm)(grams)
    assert 1 <= int(solutions.num_steps.max()) <= 6
    assert float(solutions.gap.max()) < 1e-5


def test_new_values_are_not_traced_again():
    transform = mtl.mgda(num_tasks=3)
    update = jax.jit(chex.assert_max_traces(transform.update, n=1))
    task_grads = {"w": jnp.arange(12.0).reshape(3, 4)}
    state = transform.init({"w": task_grads["w"][0]})
    for scale in (1.0, 0.0, 1e-30, jnp.nan):
        _, state = update({"w": scale * task_grads["w"]}, state)
