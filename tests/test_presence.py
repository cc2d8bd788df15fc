"""Tasks that come and go: an absent one is out of the hull, the means and the memory, as if T were smaller."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS

import mtlgrad_jax as mtl

NUM_TASKS, NUM_STEPS, NUM_PARAMS = 4, 4, 12
POLICIES = ("propagate", "skip", "drop_task")
ALIKE = [(0, 1, 1, 1), (1, 1, 0, 1)]  # for methods whose tasks have no roles
LEADING = [(1, 1, 0, 1), (1, 1, 1, 0)]  # with the tasks that have one
every_policy = pytest.mark.parametrize("nonfinite", POLICIES)


def has_roles(case):
    """Whether the first tasks have a part of their own, or the order of all matters."""
    return not (case.keeps("P") or case.keeps("p"))


def masks_of(case):
    most = case.claims.max_tasks or NUM_TASKS
    masks = {mask[:most] for mask in (LEADING if has_roles(case) else ALIKE)}
    return sorted(mask for mask in masks if sum(mask) >= case.claims.min_tasks)


def options_for(case, present):
    """Return the options of a method of fewer tasks: those with one value per task, without the absent ones."""
    given = dict(case.claims.options(len(present)))
    return {
        name: tuple(np.asarray(value)[present]) if np.shape(value) == present.shape else value
        for name, value in given.items()
    }


def make(case, present, **options):
    return getattr(mtl, case.name)(int(np.sum(present)), **(options_for(case, present) | options))


def steps_for(num_tasks, seed=0, num_steps=NUM_STEPS):
    """Return Jacobians and losses of some steps."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((num_steps, 1, NUM_PARAMS))
    rows = shared + rng.standard_normal((num_steps, num_tasks, NUM_PARAMS)) * rng.uniform(0.5, 2, (num_tasks, 1))
    return rows.astype(np.float32), rng.uniform(0.5, 3, (num_steps, num_tasks)).astype(np.float32)


def path_of(case, tx, rows, losses, present):
    """Return the last state, and the update, the weights and the certificate of all steps."""

    def step(state, inputs):
        rows, losses, present = inputs
        extras = {} if present is None else {"present": present}
        if not case.one_per_step:
            update, state = tx.update(rows, state, **case.extras(rows, losses), **extras)
            return state, (update, state.weights, state.gap)
        update = jnp.zeros(rows.shape[-1])
        for task in range(rows.shape[0]):
            new, state = tx.update(rows[task], state, task=task, **extras)
            update = new if present is None else jnp.where(present[task], new, update)
        return state, (update, state.weights, state.gap)

    return jax.lax.scan(step, tx.init(jnp.zeros(rows.shape[-1])), (rows, losses, present))


def is_drawn(case):
    """Whether the numbers drawn for T tasks are others than those for fewer."""
    return "K" in case.claims.needs and case.name != "graddrop"


def assert_as_if_there_were_fewer(case, nonfinite):
    most = len(masks_of(case)[0])
    tx = make(case, np.ones(most, bool), nonfinite=nonfinite)
    walk = jax.jit(functools.partial(path_of, case, tx))
    for mask in masks_of(case):
        present = np.array(mask, bool)
        rows, losses = steps_for(len(mask))
        _, expected = jax.jit(functools.partial(path_of, case, make(case, present)))(
            rows[:, present], losses[:, present], None
        )
        rows[:, ~present], losses[:, ~present] = np.nan, np.nan
        state, actual = walk(rows, losses, np.tile(present, (NUM_STEPS, 1)))
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-4, atol=1e-5 * np.abs(expected[0]).max())
        np.testing.assert_allclose(actual[1][:, present], expected[1], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(actual[1][:, ~present], 0)
        if actual[2] is not None:
            np.testing.assert_allclose(actual[2], expected[2], rtol=1e-2, atol=1e-5)
        np.testing.assert_array_equal(state.num_nonfinite, 0)
    assert walk._cache_size() == 1


@pytest.mark.parametrize("case", [case for case in METHODS if masks_of(case) and not is_drawn(case)], ids=str)
def test_an_absent_task_is_as_if_there_were_fewer(case):
    """Whatever its row, its loss and its second gradient hold, in one program."""
    assert_as_if_there_were_fewer(case, "propagate")


@pytest.mark.parametrize("case", [case for case in METHODS if str(case) in ("mgda", "gradnorm", "bloop")], ids=str)
@pytest.mark.parametrize("nonfinite", ["skip", "drop_task"])
def test_it_is_so_under_every_policy(case, nonfinite):
    assert_as_if_there_were_fewer(case, nonfinite)
