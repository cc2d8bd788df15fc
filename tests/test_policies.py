"""Every method × what is done about a broken gradient × what is broken, and tasks that take no part in a step."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PLAIN, draw, falling_losses, one_of_each_kind

LEAVES = {"kernel": slice(0, 6), "bias": slice(6, 8)}
BROKEN = {  # the value, the tasks and the columns that have it
    "a NaN in one task": (np.nan, [1], [2]),
    "one task infinite": (-np.inf, [1], slice(None)),
    "one leaf of one task": (np.inf, [1], LEAVES["bias"]),
    "the first task": (np.nan, [0], slice(None)),
    "all tasks": (np.nan, slice(None), slice(None)),
}
STACKED = [case for case in PLAIN if not case.one_per_step]
ONE_PER_STEP = [case for case in PLAIN if case.one_per_step]
every_stacked_method = pytest.mark.parametrize("case", STACKED, ids=str)
# What a step that is skipped hands a method, and that its memory is kept, is as with "drop_task" and no task left.
one_stacked_method_of_each_kind = pytest.mark.parametrize("case", one_of_each_kind(STACKED), ids=str)
every_method_of_one_gradient = pytest.mark.parametrize("case", ONE_PER_STEP, ids=str)
remembers = lambda case: bool({"S", "K"} & set(case.claims.needs))


def tree(rows):
    return {name: rows[..., columns] for name, columns in LEAVES.items()}


def flat(update):
    return np.concatenate([np.asarray(update[name]) for name in LEAVES])


def clean(case, seed=0):
    return draw("gaussian", 8, seed)[: case.num_tasks, :8]


def broken(case, what):
    value, tasks, columns = BROKEN[what]
    rows = clean(case, 1)
    rows[np.ix_(np.arange(len(rows))[tasks], np.arange(8)[columns])] = value
    return rows


def is_broken(case, what):
    return ~np.isfinite(broken(case, what)).all(axis=1)


@functools.cache
def program(case, policy, num_tasks):
    tx = case.make(num_tasks, nonfinite=policy)
    return tx, jax.jit(lambda grads, state, extras: tx.update(grads, state, **extras))


def take(case, policy, state, rows, **extras):
    """Take a step from a state, None for the first, with one and the same compiled program for all of a method."""
    num_tasks = case.num_tasks if case.one_per_step else len(rows)
    tx, step = program(case, policy, num_tasks)
    if not case.one_per_step:
        extras = case.extras(tree(clean(case, 5)[:num_tasks]), falling_losses(num_tasks)[0]) | extras
    state = tx.init(tree(jnp.zeros(8))) if state is None else state
    update, state = jax.device_get(step(tree(rows), state, extras))
    return flat(update), state


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


@every_stacked_method
def test_propagate_lets_it_through_and_says_so(case):
    _, start = take(case, "propagate", None, clean(case))
    for what in BROKEN:
        update, state = take(case, "propagate", start, broken(case, what))
        assert case.on_rows or not np.all(np.isfinite(update)), what  # one on rows may leave extremes out
        assert state.gap is None or state.gap == np.inf, what
        np.testing.assert_array_equal(state.num_nonfinite, is_broken(case, what))


@one_stacked_method_of_each_kind
def test_skip_makes_no_step_and_leaves_no_trace(case):
    _, start = take(case, "skip", None, clean(case))
    expected, end = take(case, "skip", start, clean(case, 2))
    for what in BROKEN:
        update, state = take(case, "skip", start, broken(case, what))
        np.testing.assert_array_equal(update, 0)
        np.testing.assert_array_equal(state.weights, 0)
        np.testing.assert_array_equal(state.num_nonfinite, is_broken(case, what))
        assert_equal(state.memory, start.memory)
        update, state = take(case, "skip", state, clean(case, 2))
        np.testing.assert_array_equal(update, expected)
        assert_equal(state._replace(num_nonfinite=end.num_nonfinite), end)


@every_stacked_method
def test_drop_task_steps_without_it_and_recovers(case):
    _, start = take(case, "drop_task", None, clean(case))
    expected, end = take(case, "drop_task", start, clean(case, 2))
    for what in BROKEN:
        dropped = is_broken(case, what)
        update, state = take(case, "drop_task", start, broken(case, what))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((update, state)))
        np.testing.assert_array_equal(state.num_nonfinite, dropped)
        if not case.on_rows:
            np.testing.assert_array_equal(state.weights[dropped], 0)
        if dropped.all():
            np.testing.assert_array_equal(update, 0)
            assert_equal(state.memory, start.memory)
        update, state = take(case, "drop_task", state, clean(case, 2))
        assert np.all(np.isfinite(update))
        if not remembers(case) or dropped.all():
            np.testing.assert_array_equal(update, expected)
            assert_equal(state._replace(num_nonfinite=end.num_nonfinite), end)


def assert_as_if_nothing_were_done(case, policy):
    expected, _ = take(case, "propagate", None, clean(case))
    update, state = take(case, policy, None, clean(case))
    np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-6)
    assert not np.any(state.num_nonfinite)


@every_stacked_method
def test_ordinary_steps_are_the_same_if_broken_tasks_would_be_dropped(case):
    assert_as_if_nothing_were_done(case, "drop_task")


@one_stacked_method_of_each_kind
def test_ordinary_steps_are_the_same_if_broken_steps_would_be_skipped(case):
    assert_as_if_nothing_were_done(case, "skip")


def all_in_turn(case, policy, state, rows, tasks):
    for task in tasks:
        update, state = take(case, policy, state, rows[task], task=np.int32(task))
    return update, state


@every_method_of_one_gradient
@pytest.mark.parametrize("policy", ["skip", "drop_task"])
def test_a_broken_gradient_of_the_one_task_is_as_if_it_had_not_been(case, policy):
    """With "skip" the step is not taken; with "drop_task" it follows what the other steps have left."""
    tasks = range(case.num_tasks)
    _, start = all_in_turn(case, policy, None, clean(case), tasks)
    expected, end = all_in_turn(case, policy, start, clean(case, 2), tasks)
    for what in list(BROKEN)[:-1]:
        (task,) = np.flatnonzero(is_broken(case, what))
        update, state = take(case, policy, start, broken(case, what)[task], task=np.int32(task))
        assert np.all(np.isfinite(update)) and np.any(update) == (policy == "drop_task")
        np.testing.assert_array_equal(state.num_nonfinite, is_broken(case, what))
        assert_equal((state.memory.momenta, state.memory.counts), (start.memory.momenta, start.memory.counts))
        update, state = all_in_turn(case, policy, state, clean(case, 2), tasks)
        if policy == "skip":
            np.testing.assert_array_equal(update, expected)
            assert_equal(state._replace(num_nonfinite=end.num_nonfinite), end)


@every_method_of_one_gradient
def test_propagate_lets_the_gradient_of_the_one_task_through(case):
    _, start = all_in_turn(case, "propagate", None, clean(case), range(case.num_tasks))
    for what in list(BROKEN)[:-1]:
        (task,) = np.flatnonzero(is_broken(case, what))
        update, state = take(case, "propagate", start, broken(case, what)[task], task=np.int32(task))
        assert not np.all(np.isfinite(update)) and state.gap in (None, np.inf)


def masks(num_tasks):
    return [np.array(mask) for mask in itertools.product([False, True], repeat=num_tasks)]


@every_stacked_method
def test_tasks_that_take_no_part_may_hold_anything_in_one_program(case):
    """And a task that is told to be absent is one whose gradient is broken under "drop_task"."""
    (_, step), programs = program(case, "propagate", case.num_tasks), set()
    for present in masks(case.num_tasks):
        rows = np.where(present[:, None], clean(case, 1), np.nan)
        update, state = take(case, "propagate", None, rows, present=present)
        programs.add(step._cache_size())
        expected, dropped = take(case, "drop_task", None, rows)
        assert np.all(np.isfinite(update)) and (state.gap is None or np.isfinite(state.gap))
        assert present.any() or not update.any()
        assert case.on_rows or not state.weights[~present].any()
        np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-6)
        assert_equal(jax.tree.map(np.shape, state), jax.tree.map(np.shape, dropped))
    assert len(programs) == 1


IN_THE_HULL = ("cagrad", "cr_mogm", "dualproj", "excess_mtl", "mean", "mgda", "moco", "pcd", "primary_aux")
HAVE_A_PRIMARY = ("pcd", "primary_aux")


@pytest.mark.parametrize("case", [case for case in STACKED if case.name in IN_THE_HULL], ids=str)
def test_a_first_step_without_a_task_is_that_of_fewer_rows(case):
    """For methods that depend on the hull or the cone of the rows, in which the mean that stands in lies."""
    for present in masks(case.num_tasks):
        if present.sum() == 2 and (present[0] or case.name not in HAVE_A_PRIMARY):
            rows = np.where(present[:, None], clean(case, 1), np.nan)
            update, state = take(case, "propagate", None, rows, present=present)
            expected, fewer = take(case, "propagate", None, rows[present])
            np.testing.assert_allclose(update, expected, rtol=1e-5, atol=1e-6)
            assert case.on_rows or np.allclose(state.weights[present], fewer.weights, atol=1e-5)
