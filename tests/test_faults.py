"""Half precision, loss scales, gradients that break, tasks that come and go: what the parameters do, step by step."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import draw

import mtlgrad_jax as mtl

FACTORIES = {"mgda": mtl.mgda, "primary_aux": mtl.primary_aux, "upgrad": mtl.upgrad}
NUM_TASKS, NUM_STEPS = 3, 100
RNG = np.random.default_rng(0)
X = RNG.standard_normal((32, 6)).astype(np.float32)
Y = np.stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2], np.tanh(X[:, 3] + X[:, 0])], axis=1)
HALF = ("bfloat16", "float16")
START = {"trunk": RNG.standard_normal((6, 16)) * 0.4, "heads": RNG.standard_normal((16, NUM_TASKS)) * 0.3}


def network_losses(params):
    x = jnp.asarray(X, params["trunk"].dtype)
    outputs = jax.nn.relu(x @ params["trunk"]) @ params["heads"]
    return jnp.mean((outputs.astype(jnp.float32) - jnp.asarray(Y)) ** 2, axis=0)


@functools.cache
def training(dtype):
    """Return a jitted run in which losses are scaled, overflowing steps skipped and, if so told, the scale adapted.

    The gradients and the parameters are of the half-precision type; the scale leaves the rows in float32, not the
    update: a method that weighs by inverse lengths would take it for the length of a step.
    """
    tx = mtl.mgda(NUM_TASKS, nonfinite="skip")

    def step(carry, _):
        params, state, scale, halve = carry
        losses, task_grads = mtl.task_value_and_grad(lambda params: network_losses(params) * scale)(params)
        rows = jax.tree.map(lambda g: g.astype(jnp.float32) / scale, task_grads)  # before they are weighed
        updates, new = tx.update(rows, state, params)
        skipped = jnp.any(new.num_nonfinite > state.num_nonfinite)
        updates = jax.tree.map(lambda u, p: (-0.1 * u).astype(p.dtype), updates, params)
        params = optax.apply_updates(params, updates)
        next_scale = jnp.where(halve & skipped, scale / 2, scale)
        return (params, new, next_scale, halve), (losses / scale, new.weights, skipped, task_grads)

    @jax.jit
    def train(scale, halve):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), START)
        (params, *_), history = jax.lax.scan(step, (params, tx.init(params), scale, halve), length=NUM_STEPS)
        return params, history

    return lambda scale, halve=False: train(jnp.asarray(scale, jnp.float32), jnp.asarray(halve))


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_end_to_end_learns_every_task(dtype):
    params, (losses, _, skipped, task_grads) = training(dtype)(1.0)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((params, task_grads))} == {dtype}
    assert not np.any(skipped)
    assert np.all(losses[-1] < 0.7 * losses[0]), losses[-1] / losses[0]


@pytest.mark.parametrize("dtype", HALF)
def test_a_constant_loss_scale_does_not_move_the_weights_or_the_path(dtype):
    """A power of two, bit for bit where the type has room for it; float16 loses small numbers below 2⁻¹⁴."""
    expected, scaled = training(dtype)(1.0), training(dtype)(2.0**8)
    if dtype == "bfloat16":
        chex.assert_trees_all_equal(expected[0], scaled[0])
        chex.assert_trees_all_equal(expected[1][:3], scaled[1][:3])
    else:
        np.testing.assert_allclose(scaled[1][1][0], expected[1][1][0], rtol=1e-2, atol=1e-2)
        np.testing.assert_allclose(scaled[1][0][-1], expected[1][0][-1], rtol=0.1)


def test_a_step_that_overflows_is_skipped_until_the_scale_fits():
    _, (losses, _, skipped, _) = training("float16")(2.0**24, halve=True)
    num_skipped = int(np.sum(skipped))
    assert 3 < num_skipped < 20 and np.all(skipped[:num_skipped])
    assert not np.any(skipped[num_skipped:])
    assert np.all(losses[-1] < 0.7 * losses[0]), losses[-1] / losses[0]


HESSIANS = np.stack([np.diag([1.0, 0.3, 0.6]), np.diag([0.4, 1.0, 0.2]), np.diag([0.5, 0.5, 1.0])]).astype(np.float32)
BOWLS = {"w": np.array([2.0, -1.5], np.float32), "b": np.float32(1.0)}
POLICIES = ("propagate", "skip", "drop_task")
# What enters a task's loss in a step: the value without a fault, and the one that breaks the gradient.
FAULTS = {
    "0/0": ("count", 1, 0),
    "sqrt(0)": ("under_root", 1, 0),
    "log(0)": ("probability", 1, 0),
    "overflow": ("factor", 1, 1e30),
    "label missing": ("label", 0, np.nan),
}


def position_of(params):
    return jnp.concatenate([params["w"], params["b"][None]])


def bowl(task, position, fault):
    """Return the loss of one task; all have their minimum at zero."""
    error = position - fault["label"]
    loss = error @ jnp.asarray(HESSIANS[task]) @ error / 2
    nothing = jnp.sum(position**2) * 0
    loss = loss * fault["factor"] * fault["factor"] * fault["count"] / fault["count"]
    return loss + jnp.sqrt(nothing + fault["under_root"]) - jnp.log(nothing + fault["probability"])


def bowls(position, faults):
    return [bowl(task, position, {name: fault[task] for name, fault in faults.items()}) for task in range(NUM_TASKS)]


def losses_fn(params, faults):
    return bowls(position_of(params), faults)


def separately(params, faults):
    functions = [lambda params, fault, task=task: bowl(task, position_of(params), fault) for task in range(NUM_TASKS)]
    batches = [{name: fault[task] for name, fault in faults.items()} for task in range(NUM_TASKS)]
    return mtl.separate_value_and_grad(functions)(params, batches)


def at_the_representation(params, faults):
    encoder_fn, heads_fn = lambda params, _: position_of(params), lambda _, position, faults: bowls(position, faults)
    return mtl.jacobians.shared_encoder.linearize(encoder_fn, heads_fn, (params, None), faults)


HELD = {  # the gradients of all tasks, for a method of Optax
    "stacked": mtl.task_value_and_grad(losses_fn),
    "separate": separately,
}
LINEAR = {  # a linear map, for a loop of one's own
    "matrix_free": functools.partial(mtl.jacobians.matrix_free.linearize, losses_fn),
    "shared_encoder": at_the_representation,
}


def steps_of_optax(way):
    """Return the states of the three policies, and a step from the parameters and the state of each."""
    solved = way == "stacked"  # MGDA where the method matters, once: it compiles slowly
    methods = [mtl.mean, mtl.mean, mtl.mgda if solved else mtl.mean]
    optimizers = [method(NUM_TASKS, nonfinite=policy) for method, policy in zip(methods, POLICIES, strict=True)]

    def step(params, states, faults):
        _, task_grads = jax.vmap(HELD[way], (0, None))(params, faults)
        updates = []
        for i, tx in enumerate(optimizers):
            update, states[i] = tx.update(jax.tree.map(lambda leaf, i=i: leaf[i], task_grads), states[i])
            updates.append(update)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *updates), states

    return [tx.init(None) for tx in optimizers], step


def steps_of_a_loop(way):
    """Return the same for the mean by hand, in which a task that is left out has a weight of zero."""

    def direction(params, policy, faults):
        _, jac = LINEAR[way](params, faults)
        finite = jnp.isfinite(jnp.diagonal(jac.gram()))
        equal, present = jnp.full(NUM_TASKS, 1 / NUM_TASKS), finite.astype(jnp.float32)
        weights = jnp.stack([equal, equal * jnp.min(present), present / jnp.maximum(jnp.sum(present), 1)])[policy]
        update = jac.combine(weights)
        return (update[0] if isinstance(update, tuple) else update), ~finite

    def step(params, counts, faults):
        updates, broken = jax.vmap(direction, (0, 0, None))(params, jnp.arange(len(POLICIES)), faults)
        return updates, counts + broken.astype(jnp.int32)

    return jnp.zeros((len(POLICIES), NUM_TASKS), jnp.int32), step


@functools.cache
def faulty_training(way):
    """Return a jitted run on three bowls with one bottom under the three policies, from the faults of each step."""
    states, step = (steps_of_optax if way in HELD else steps_of_a_loop)(way)

    def scanned(carry, faults):
        params, states = carry
        updates, states = step(params, states, faults)
        params = jax.tree.map(lambda leaf, update: leaf - 0.2 * update, params, updates)
        return (params, states), jax.vmap(position_of)(params)

    @jax.jit
    def train(faults):
        params = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * len(POLICIES)), BOWLS)
        (_, last), path = jax.lax.scan(scanned, (params, states), faults)
        return last, path

    def run(fault, steps, tasks):
        last, path = train(faults_at(fault, steps, tasks))
        paths = dict(zip(POLICIES, np.moveaxis(np.asarray(path), 1, 0), strict=True))
        if way in HELD:
            return {policy: state.num_nonfinite for policy, state in zip(POLICIES, last, strict=True)}, paths
        return dict(zip(POLICIES, last, strict=True)), paths

    return run


def faults_at(fault, steps, tasks):
    entering = {name: np.full((NUM_STEPS, NUM_TASKS), healthy, np.float32) for name, healthy, _ in FAULTS.values()}
    name, _, value = FAULTS[fault]
    entering[name][np.ix_(steps, tasks)] = value
    return entering


WHERE = {"one task": [1], "all tasks": [0, 1, 2]}
STEPS = np.arange(5, NUM_STEPS, 3)


def losses_at(position):
    return np.einsum("i,tij,j->t", position, HESSIANS, position) / 2


def start():
    return np.append(BOWLS["w"], BOWLS["b"])


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("way", [*HELD, *LINEAR])
def test_a_hundred_steps_with_faults_in_the_losses_under_each_policy(way, where, fault):
    tasks = WHERE[where]
    counts, paths = faulty_training(way)(fault, STEPS, tasks)
    _, clean = faulty_training(way)(fault, [], [])

    path = paths["propagate"]
    assert np.all(np.isfinite(path[: STEPS[0]])) and not np.any(np.isfinite(path[STEPS[0] :]).all(axis=1))

    path = paths["skip"]
    np.testing.assert_array_equal(path[-1], clean["skip"][NUM_STEPS - 1 - len(STEPS)])
    np.testing.assert_array_equal(path[STEPS], path[STEPS - 1])

    path = paths["drop_task"]
    assert np.all(losses_at(path[-1]) < 1e-3 * losses_at(start()))
    moved = np.any(path[STEPS] != path[STEPS - 1], axis=1)
    assert not np.any(moved) if where == "all tasks" else moved[0]
    for policy in ("skip", "drop_task"):
        np.testing.assert_array_equal(counts[policy], np.isin(np.arange(NUM_TASKS), tasks) * len(STEPS))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_task_that_never_has_a_gradient_leaves_the_others_their_training(fault):
    counts, paths = faulty_training("stacked")(fault, np.arange(NUM_STEPS), [1])
    assert np.all(losses_at(paths["drop_task"][-1]) < 1e-3 * losses_at(start()))
    np.testing.assert_array_equal(counts["drop_task"], [0, NUM_STEPS, 0])


def subsets(num_tasks):
    masks = (np.arange(1, 2**num_tasks)[:, None] >> np.arange(num_tasks)) % 2
    return masks.astype(bool)


def test_tasks_come_and_go_in_one_program():
    """A row of NaN is a task that is absent, a row of zeros one that has arrived."""
    rows = draw("gaussian", 4)[:, :6]
    tx, primary = mtl.mgda(nonfinite="drop_task"), mtl.primary_aux()
    step, primary_step = (jax.jit(lambda rows, tx=tx: tx.update(rows, tx.init(None))[0]) for tx in (tx, primary))
    for present in subsets(4):
        others = np.where(present[:, None], rows, rows[np.flatnonzero(present)[0]])  # the same hull
        absent = np.where(present[:, None], rows, np.nan)
        np.testing.assert_allclose(step(absent), step(others), rtol=1e-4, atol=1e-5)
        zeroed = np.where(present[:, None], rows, 0)
        assert np.all(present) or not np.any(step(zeroed))
        agreeing = np.where(present[:, None], rows, rows[0])
        expected = primary_step(agreeing) if present[0] else 0
        np.testing.assert_allclose(primary_step(zeroed), expected, rtol=1e-4, atol=1e-5)
    assert np.any(step(rows) != 0)
    assert step._cache_size() == primary_step._cache_size() == 1


@pytest.mark.parametrize(("name", "num_tasks"), [("mgda", 1), ("mgda", 256), ("primary_aux", 256), ("upgrad", 64)])
def test_many_tasks(name, num_tasks):
    task_grads = draw("spread_4", num_tasks)
    tx = FACTORIES[name](num_tasks)
    update, state = jax.jit(lambda rows: tx.update(rows, tx.init(None)))(task_grads)
    rows, update = task_grads.astype(np.float64), np.asarray(update, np.float64)
    assert state.gap < 1e-5
    assert np.linalg.norm(update) > 0
    slopes = rows @ update / (np.linalg.norm(rows, axis=1) * np.linalg.norm(update))
    assert np.min(slopes) > -1e-5
