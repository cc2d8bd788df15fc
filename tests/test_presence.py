"""Tasks that come and go: an absent one is out of the hull, the means and the memory, as if T were smaller."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS, PLAIN, one_of_each_kind

import mtlgrad_jax as mtl

NUM_TASKS, NUM_STEPS, NUM_PARAMS = 4, 4, 12
POLICIES = ("propagate", "skip", "drop_task")
ALIKE = [(0, 1, 1, 1), (1, 1, 0, 1)]  # for methods whose tasks have no roles
LEADING = [(1, 1, 0, 1), (1, 1, 1, 0)]  # with the tasks that have one


def has_roles(case):
    """Whether the first tasks have a part of their own, or the order of all matters."""
    return not (case.keeps("P") or case.keeps("p"))


def masks_of(case):
    most = case.claims.max_tasks or NUM_TASKS
    masks = {mask[:most] for mask in (LEADING if has_roles(case) else ALIKE)}
    return sorted(mask for mask in masks if sum(mask) >= case.claims.min_tasks)


def options_for(case, present):
    """Return the options of a method of fewer tasks: those with one value per task, without the absent ones.

    A preference leaves what an absent task had to the others: it keeps its sum.
    """
    given = dict(case.claims.options(len(present)))
    return {
        name: _among(name, np.asarray(value), present) if np.shape(value) == present.shape else value
        for name, value in given.items()
    }


def _among(name, value, present):
    share = value[present]
    return tuple(share * (value.sum() / share.sum()) if name == "preference" else share)


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
    walk, without = jax.jit(functools.partial(path_of, case, tx)), {}
    for mask in masks_of(case):
        present = np.array(mask, bool)
        rows, losses = steps_for(len(mask))
        alone = jax.jit(functools.partial(path_of, case, make(case, present)))
        alone = without.setdefault(repr(options_for(case, present)), alone)  # one program where options are the same
        _, expected = alone(rows[:, present], losses[:, present], None)
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


TWO = (1, 0, 0, 1)  # among two tasks the order in which pairs are visited does not matter


@pytest.mark.parametrize("case", [case for case in METHODS if is_drawn(case)], ids=str)
def test_numbers_drawn_for_absent_tasks_do_not_count(case):
    present = np.array(TWO[: case.claims.max_tasks or NUM_TASKS], bool)
    rows, losses = steps_for(len(present))
    walk = jax.jit(functools.partial(path_of, case, make(case, np.ones_like(present))))
    mask = np.tile(present, (NUM_STEPS, 1))
    _, (update, weights, _) = walk(rows, losses, mask)
    rows[:, ~present] = np.nan
    np.testing.assert_array_equal(walk(rows, losses, mask)[1][0], update)
    np.testing.assert_array_equal(weights[:, ~present], 0)
    if case.name == "random_weights":
        assert np.all(weights[:, present] > 0)
        np.testing.assert_allclose(np.sum(weights, axis=1), 1, rtol=1e-6)
    else:
        _, expected = path_of(case, make(case, present), rows[:, present], losses[:, present], None)
        np.testing.assert_allclose(update, expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in METHODS if set("SR") & set(case.claims.needs)], ids=str)
def test_what_is_remembered_of_a_task_rests_while_it_is_away(case):
    """Or is forgotten, where it is a matter of the last step."""
    tx, away = make(case, np.ones(NUM_TASKS, bool)), 2
    rows, losses = steps_for(NUM_TASKS, num_steps=2)

    @jax.jit
    def before_and_after(rows, losses):
        state, _ = path_of(case, tx, rows, losses, jnp.ones((2, NUM_TASKS), bool))
        extras = {"task": 0} if case.one_per_step else case.extras(rows[1], losses[1])
        present = jnp.arange(NUM_TASKS) != away
        _, after = tx.update(rows[1][0] if case.one_per_step else rows[1], state, present=present, **extras)
        return state.memory, after.memory

    for old, new in zip(*map(jax.tree.leaves, before_and_after(rows, losses)), strict=True):
        if old.shape[:1] == (NUM_TASKS,):
            assert np.array_equal(new[away], old[away]) or not np.any(new[away])


def test_nobody_present_is_no_step_under_any_policy():
    for case in METHODS:
        if str(case) in ("mgda", "gradnorm", "bloop", "modo"):
            for policy in POLICIES:
                tx, rows = case.make(2, nonfinite=policy), jnp.full((2, 3), jnp.nan)
                state = tx.init(rows[0])
                update, after = tx.update(
                    rows, state, present=jnp.zeros(2, bool), **case.extras(rows, jnp.full(2, jnp.nan))
                )
                assert not np.any(update)
                jax.tree.map(np.testing.assert_array_equal, after.memory, state.memory)


def parabolas(params):
    return jnp.stack([jnp.sum((params - target) ** 2) for target in (1.0, 2.0, -4.0)])


@pytest.mark.parametrize("name", ["mean", "mgda", "geometric", "nash_mtl"])
@pytest.mark.parametrize("method", ["stacked", "matrix_free"])
def test_every_way_to_hold_the_jacobian_knows_it(name, method):
    params, present = jnp.array([0.3, -0.2]), jnp.array([True, True, False])
    weighting = getattr(mtl.weightings, name)

    def broken(params):
        return parabolas(params) * jnp.array([1, 1, jnp.nan])

    _, expected, _ = mtl.descent_direction(lambda params: parabolas(params)[:2], params, weighting)
    _, update, info = mtl.descent_direction(broken, params, weighting, method=method, present=present)
    np.testing.assert_allclose(update, expected, rtol=1e-5)
    assert info.weights[2] == 0
    np.testing.assert_array_equal(info.finite, [True, True, True])


HANDED = ("mean", "mgda", "krum", "trimmed_mean", "geometric", "gradnorm", "cosine_gate", "sdmgrad")
CODINGS = {
    "no mean of nothing": lambda params, n: jnp.sum(params**2) * n / n,
    "where it has none, nan": lambda params, n: jnp.where(n > 0, jnp.sum(params**2), jnp.nan),
}


@pytest.mark.parametrize("coding", CODINGS)
def test_a_loss_that_is_not_a_number_is_an_absent_task_under_drop_task(coding):
    """Whether its gradient is finite, here zero, or not."""
    params = jnp.array([1.0, 2.0])

    def losses_fn(params, n):
        return jnp.stack([jnp.sum((params - 3) ** 2), CODINGS[coding](params, n)])

    losses, task_grads = mtl.task_value_and_grad(losses_fn)(params, jnp.array(0.0))
    tx = mtl.mgda(num_tasks=2, nonfinite="drop_task")
    update, state = tx.update(task_grads, tx.init(params), params, losses=losses)
    np.testing.assert_allclose(update, 2 * (params - 3), rtol=1e-6)
    np.testing.assert_array_equal(state.weights, [1, 0])


def test_a_stationary_task_is_present():
    task_grads = jnp.array([[1.0, 2.0], [0.0, 0.0]])
    tx = mtl.mgda(2, nonfinite="drop_task")
    assert not np.any(tx.update(task_grads, tx.init(task_grads[0]))[0])
    there = jnp.array([True, False])
    np.testing.assert_allclose(tx.update(task_grads, tx.init(task_grads[0]), present=there)[0], [1, 2], rtol=1e-6)


@pytest.mark.parametrize("case", [case for case in PLAIN if case.name in HANDED], ids=str)
def test_accumulation_hands_on_which_tasks_had_an_example(case):
    mask = masks_of(case)[0]
    present = np.array(mask, bool)
    rows, losses = steps_for(len(mask), num_steps=2)
    counts = np.where(present, 1.0, 0.0).astype(np.float32)
    tx = mtl.accumulate(make(case, np.ones_like(present)), 2, len(mask))
    state = tx.init(jnp.zeros(NUM_PARAMS))
    for batch in range(2):
        extras = case.extras(rows[0], losses[batch]) | {"losses": losses[batch]}
        update, state = tx.update(rows[batch], state, counts=jnp.asarray(counts), **extras)
    alone = make(case, np.ones_like(present))
    mean, extras = rows.mean(0), case.extras(rows[0], losses.mean(0)) | {"losses": losses.mean(0)}
    expected, _ = alone.update(mean, alone.init(jnp.zeros(NUM_PARAMS)), present=jnp.asarray(present), **extras)
    np.testing.assert_allclose(update, expected, rtol=1e-4, atol=1e-5)


def test_weights_every_k_steps_are_computed_anew_when_other_tasks_are_there():
    tx = mtl.aggregate(mtl.weightings.every_k(mtl.weightings.mgda, 10), 3)
    rows, state = jnp.eye(3), tx.init(jnp.zeros(3))
    for present in ([1, 1, 1], [1, 1, 0], [1, 1, 1]):
        _, state = tx.update(rows, state, present=jnp.array(present, bool))
        np.testing.assert_allclose(state.weights, np.array(present) / sum(present), atol=1e-6)


LONG, SEEDS = 500, 5  # steps; runs, the first of which has faults
FAULT = {"gone": 0.2, "nan": 0.05, "overflow": 0.05}  # how often a task has one


def bowls_with_noise(num_tasks):
    """Return losses and gradients, at a position and with the noise of a batch, of tasks with one minimum."""
    rng = np.random.default_rng(7)
    curvatures = jnp.asarray(rng.uniform(0.5, 1.5, (num_tasks, 6)), jnp.float32)

    def batch(position, noise):
        rows = curvatures * position[None] + noise
        return 0.1 + jnp.sum(curvatures * position[None] ** 2, axis=1) / 2, rows

    return batch


@functools.cache
def long_faults(num_tasks):
    """Return the noise of every run, and the faults of all steps, of which the first run alone has any."""
    rng = np.random.default_rng(11)
    noise = 0.1 * rng.standard_normal((SEEDS, LONG, num_tasks, 6)).astype(np.float32)
    has = {name: rng.uniform(size=(SEEDS, LONG, num_tasks)) < often for name, often in FAULT.items()}
    for faults in has.values():
        faults[1:] = False
    return noise, has


def long_run(case, num_tasks, nonfinite):
    """Return a function from noise and faults to the mean loss over the last fifty steps, and whether all was finite.

    The caller says who is absent, and under "propagate" also whose gradient broke, as nobody else looks.
    """
    tx, batch = case.make(num_tasks, nonfinite=nonfinite), bowls_with_noise(num_tasks)

    def step(carry, inputs):
        position, state = carry
        noise, has, count = inputs
        losses, rows = batch(position, noise)
        entering = jnp.where(has["gone"] | has["nan"], jnp.nan, jnp.where(has["overflow"], jnp.inf, 1))
        given, broken = losses * entering, rows * entering[:, None]
        absent = has["gone"] | ((nonfinite == "propagate") & (has["nan"] | has["overflow"]))
        extras = case.extras(broken, given) | {"present": ~absent}
        if case.one_per_step:
            task = state.memory.next_task
            update, state = tx.update(broken[task], state, task=task, present=~absent)
        else:
            update, state = tx.update(broken, state, **extras)
        length = jnp.sqrt(jnp.sum(update**2))
        rate = 0.1 / (1 + count / 50)
        position = position - rate * update / jnp.where(length > 0, length, 1)
        return (position, state), jnp.mean(batch(position, 0 * noise)[0])

    def run(noise, has):
        start = jnp.full(6, 1.0)
        _, path = jax.lax.scan(step, (start, tx.init(start)), (noise, has, jnp.arange(LONG).astype(jnp.float32)))
        return jnp.mean(path[-50:]), jnp.all(jnp.isfinite(path))

    return jax.jit(jax.vmap(run))


# A method sees the same under all policies, who takes part and rows without a fault: one of each kind tells them apart.
UNDER_POLICIES = [
    pytest.param(case, nonfinite, id=f"{case}-{nonfinite}")
    for nonfinite in POLICIES
    for case in (PLAIN if nonfinite == "drop_task" else one_of_each_kind(PLAIN))
]


@pytest.mark.parametrize(("case", "nonfinite"), UNDER_POLICIES)
def test_five_hundred_steps_with_faults_end_where_those_without_do(case, nonfinite):
    num_tasks = min(case.claims.max_tasks or 3, 3)
    final, finite = map(np.asarray, long_run(case, num_tasks, nonfinite)(*long_faults(num_tasks)))
    assert np.all(finite)
    excess = final - 0.1  # over the least loss
    assert excess[0] <= 2 * excess[1:].max(), excess


def test_a_weighting_of_ones_own_that_knows_nothing_of_it():
    """It sees the mean of the others in the place of the absent row."""
    rows, present = steps_for(3)[0][0], np.array([True, False, True])
    tx = mtl.aggregate(lambda gram: mtl.solvers.min_norm(gram).x, 3)
    _, state = tx.update(rows, tx.init(rows[0]), present=jnp.asarray(present))
    expected = mtl.weightings.mgda(jnp.asarray(rows[present] @ rows[present].T))
    np.testing.assert_allclose(state.weights, np.insert(np.asarray(expected), 1, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["primary_aux", "cosine_gate", "pcd", "guided_masking"])
def test_without_the_task_that_is_to_be_followed_there_is_no_step(name):
    tx, rows = getattr(mtl, name)(3), steps_for(3)[0][0]
    update, _ = tx.update(rows, tx.init(rows[0]), present=jnp.array([False, True, True]))
    assert not np.any(update)


@pytest.mark.parametrize("wrong", [np.ones(2, bool), np.ones((3, 1), bool), True])
def test_a_mask_of_another_shape_is_refused(wrong):
    tx, rows = mtl.mean(3), jnp.ones((3, 2))
    with pytest.raises(ValueError, match="present of shape"):
        tx.update(rows, tx.init(rows[0]), present=wrong)


RAY = jnp.array([1.0, 2.0, 3.0, 4.0])
COMBINED = {
    "stch": lambda ray: functools.partial(mtl.weightings.stch, ray=ray),
    "epo": lambda ray: functools.partial(mtl.weightings.epo, ray=ray),
    "power": lambda ray: mtl.weightings.normalized(mtl.weightings.mgda, power=0.5),
    "log": lambda ray: mtl.weightings.on_log_losses(mtl.weightings.mgda),
    "log, with losses": lambda ray: mtl.weightings.on_log_losses(functools.partial(mtl.weightings.stch, ray=ray)),
}


@pytest.mark.parametrize("name", COMBINED)
def test_a_weighting_alone_reads_nothing_of_an_absent_task(name):
    """Neither its row and column of G nor its loss; a ray goes on among the others in its proportions."""
    present = np.array([True, False, True, True])
    rows, losses = (values[0] for values in steps_for(4))
    gram = rows @ rows.T
    expected = COMBINED[name](RAY[present])(
        jnp.asarray(gram[np.ix_(present, present)]), losses=jnp.asarray(losses[present])
    )
    gram[~present], gram[:, ~present], losses[~present] = np.nan, np.nan, np.nan
    weigh = jax.jit(lambda there: COMBINED[name](RAY)(jnp.asarray(gram), losses=jnp.asarray(losses), present=there))
    np.testing.assert_allclose(weigh(present), np.insert(np.asarray(expected), 1, 0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(weigh(~present & False), 0)
