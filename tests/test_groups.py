"""Groups of parameters: shared by some of the tasks, frozen, or scaled along with the losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import METHODS, every_method

import mtlgrad_jax as mtl


def partly_shared(params):
    everyone, pair = params["all"], params["pair"]
    return jnp.stack([everyone**2 + (pair - 2) ** 2, (everyone - 1) ** 2 + (pair - 3) ** 2, (everyone - 0.5) ** 2])


def descend(pair):
    """Descend in two groups; the second has the given aggregation."""
    params = {"all": jnp.array(5.0), "pair": jnp.array(0.0)}
    groups = {"everyone": mtl.mgda(), "two": pair}
    tx = optax.chain(optax.partition(groups, {"all": "everyone", "pair": "two"}), optax.sgd(0.05))

    @jax.jit
    def step(params, state):
        updates, state = tx.update(mtl.task_value_and_grad(partly_shared)(params)[1], state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for _ in range(300):
        params, state = step(params, state)
    return params


def test_a_group_of_two_tasks_moves_until_one_of_them_would_lose():
    assert 2 - 1e-3 <= descend(mtl.for_tasks(mtl.mgda(), (0, 1)))["pair"] <= 3
    assert descend(mtl.mgda())["pair"] == 0  # the third task reads as stationary


def test_a_group_counts_those_of_its_tasks_that_are_present():
    tx, rows = mtl.for_tasks(mtl.mgda(3), (0, 1)), jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    _, state = tx.update(rows, tx.init(rows[0]), present=jnp.array([False, True, True]))
    np.testing.assert_array_equal(state.weights, [0, 1, 0])
    _, state = tx.update(rows, tx.init(rows[0]))
    np.testing.assert_allclose(state.weights, [0.5, 0.5, 0], rtol=1e-6)


@pytest.mark.parametrize("tasks", [(), (-1,), (3,)])
def test_a_group_of_tasks_that_do_not_exist_is_refused(tasks):
    with pytest.raises(ValueError, match="expected .*tasks"):
        mtl.for_tasks(mtl.mgda(), tasks).update(jnp.ones((3, 2)), optax.EmptyState())


PARAMS = {"trunk": jnp.array([1.0, 1.0]), "frozen": jnp.array([1.0, 1.0, 1.0])}
TASK_GRADS = {
    "trunk": jnp.array([[1.0, 0.0], [-0.5, 0.1]]),
    "frozen": jnp.array([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0]]),
}
OPPOSED = TASK_GRADS | {"trunk": jnp.array([[0.1, 1.0], [-1.0, 0.1]])}
LABELS = {"trunk": "train", "frozen": "freeze"}


def test_frozen_parameters_are_as_if_they_were_not_there():
    groups = {"train": optax.chain(mtl.mgda(), optax.sgd(1.0)), "freeze": mtl.freeze()}
    tx = optax.partition(groups, LABELS)
    updates, _ = tx.update(TASK_GRADS, tx.init(PARAMS), PARAMS)
    after = optax.apply_updates(PARAMS, updates)
    np.testing.assert_array_equal(after["frozen"], PARAMS["frozen"])
    expected, _ = mtl.mgda().update(TASK_GRADS["trunk"], optax.EmptyState())
    np.testing.assert_allclose(updates["trunk"], -expected, rtol=1e-6)
    assert np.all(TASK_GRADS["trunk"] @ updates["trunk"] <= 1e-6)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("metric", ["euclidean", "optimizer"])
def test_a_guard_around_the_group_that_moves_leaves_frozen_parameters_where_they_are(metric):
    def tx(guard):
        inside = guard(optax.chain(mtl.mgda(), optax.adam(0.1)))
        return optax.partition({"train": inside, "freeze": mtl.freeze()}, LABELS)

    guarded, plain = tx(lambda inner: mtl.guard(inner, 2, metric=metric)), tx(lambda inner: inner)
    updates, seen = {}, {}
    for name, one in {"guarded": guarded, "plain": plain}.items():
        against = jax.tree.map(lambda rows: jnp.stack([rows[0], rows[0]]), TASK_GRADS)  # a memory without the second
        _, state = one.update(against, one.init(PARAMS), PARAMS)
        updates[name], _ = one.update(OPPOSED, state, PARAMS)
        seen[name] = OPPOSED["trunk"] @ updates[name]["trunk"]
        assert np.all(updates[name]["frozen"] == 0)
    assert np.any(seen["plain"] > 1e-3) and np.all(seen["guarded"] <= 1e-6)


def test_a_guard_around_frozen_parameters_is_refused():
    """Its correction follows all gradients, theirs too."""
    groups = {"train": optax.chain(mtl.mgda(), optax.adam(0.1)), "freeze": mtl.freeze()}
    with pytest.raises(ValueError, match=r"got mtl\.freeze, .* put it outside: optax\.partition"):
        mtl.guard(optax.partition(groups, LABELS), 2).init(PARAMS)
    zeros = lambda state: {"trunk": jnp.ones(2), "frozen": jnp.zeros(3)}
    mtl.guard(optax.partition(groups, LABELS), 2, metric=zeros).init(PARAMS)


def test_freezing_behind_the_aggregation_is_refused():
    """There tasks have been weighed by gradients along which nothing moves."""
    groups = {"train": optax.sgd(1.0), "freeze": mtl.freeze()}
    tx = optax.chain(mtl.mgda(), optax.partition(groups, LABELS))
    with pytest.raises(ValueError, match="put the aggregation first|aggregation"):
        tx.update(TASK_GRADS, tx.init(PARAMS), PARAMS)


def frozen_with_set_to_zero(wrap=lambda tx: tx):
    """In place of `freeze`: `apply_updates` would spread the parameter over the task axis that is kept."""
    groups = {"train": optax.chain(mtl.mgda(), optax.sgd(1.0)), "freeze": optax.set_to_zero()}
    tx = wrap(optax.partition(groups, LABELS))
    return optax.with_extra_args_support(tx).update(TASK_GRADS, tx.init(PARAMS), PARAMS)[0]


AROUND = {  # what of ours can be around the partition, or look at what it makes
    "guard": lambda tx: mtl.guard(tx),
    "accumulate": lambda tx: mtl.accumulate(tx, 2, 2),
    "for_tasks": lambda tx: mtl.for_tasks(tx, (0, 1)),
    "trunk_and_heads": lambda tx: mtl.trunk_and_heads(tx, {"trunk": True, "frozen": True}),
}


@pytest.mark.parametrize("around", [*AROUND, "step_cosines", "hurt_by_step"])
def test_set_to_zero_in_place_of_freeze_is_caught_wherever_we_see_it(around):
    with pytest.raises(ValueError, match=r"freeze them with mtl\.freeze\(\) in place of optax\.set_to_zero\(\)\."):
        if around in AROUND:
            frozen_with_set_to_zero(AROUND[around])
        else:
            getattr(mtl.diagnostics, around)(TASK_GRADS, frozen_with_set_to_zero())


def test_set_to_zero_with_nothing_of_ours_around_is_out_of_sight():
    assert frozen_with_set_to_zero()["frozen"].shape == (2, 3)


SCALE = 2.0**10


@every_method
def test_a_loss_scale_taken_from_the_rows_is_never_seen(case):
    num_tasks = case.sizes[-1] if case.sizes[-1] < 8 else 4
    centres = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (num_tasks, 6)), jnp.float32)

    def losses_fn(params, scale):
        return (1 + jnp.sum((params[None] - centres) ** 2, axis=1)) * scale

    def step(scale):
        tx, params = case.make(num_tasks), jnp.linspace(-1, 1, 6)
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(params, scale)
        losses, rows = losses / scale, task_grads / scale
        if case.one_per_step:
            state = tx.init(params)
            for task in range(num_tasks):
                update, state = tx.update(rows[task], state, task=task)
            return update
        return tx.update(rows, tx.init(params), **case.extras(rows, losses))[0]

    np.testing.assert_array_equal(step(SCALE), step(1.0))


@pytest.mark.parametrize("case", [case for case in METHODS if case.claims.degree not in (0, None)], ids=str)
def test_a_loss_scale_taken_from_the_update_changes_the_step_of_methods_with_a_length_of_their_own(case):
    rows = jnp.asarray(np.random.default_rng(0).standard_normal((2, 6)) + 1, jnp.float32)
    tx, losses = case.make(2), jnp.ones(2)
    right, wrong = (
        tx.update(rows * scale, tx.init(rows[0]), **case.extras(rows * scale, losses))[0] / scale
        for scale in (1.0, SCALE)
    )
    np.testing.assert_allclose(wrong, right * SCALE**case.claims.degree, rtol=1e-4)


def test_a_train_state_takes_a_step_with_losses():
    train_state = pytest.importorskip("flax.training.train_state")
    centres = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    tx = optax.chain(mtl.geometric(2), optax.sgd(0.1))
    state = train_state.TrainState.create(apply_fn=None, params={"x": jnp.zeros(2)}, tx=tx)

    def losses_fn(params):
        return jnp.sum((params["x"][None] - centres) ** 2, axis=1)

    losses, task_grads = mtl.task_value_and_grad(losses_fn)(state.params)
    with pytest.raises(ValueError, match=r"state\.tx\.update"):
        state.apply_gradients(grads=task_grads, losses=losses)
    updates, opt_state = state.tx.update(task_grads, state.opt_state, state.params, losses=losses)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    assert state.step == 1 and np.all(losses_fn(state.params) < losses)
