"""A trunk and heads by one call: the trunk as the method would have it alone, every head by its own gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from split_parameters import collectives

import mtlgrad_jax as mtl
from mtlgrad_jax import diagnostics

RNG = np.random.default_rng(0)
X, Y = (jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in ((16, 6), (3, 16)))
PARAMS = {
    "trunk": {"w": jnp.asarray(RNG.standard_normal((6, 8)), jnp.float32), "b": jnp.zeros(8)},
    "heads": [jnp.asarray(RNG.standard_normal(8), jnp.float32) for _ in range(3)],
}
MASK = {"trunk": True, "heads": False}
LABELS = {"trunk": "trunk", "heads": "heads"}


def losses_fn(params):
    hidden = jnp.tanh(X @ params["trunk"]["w"] + params["trunk"]["b"][None, :])
    return jnp.mean((jnp.stack([hidden @ head for head in params["heads"]]) - Y) ** 2, axis=1)


LOSSES, TASK_GRADS = mtl.task_value_and_grad(losses_fn)(PARAMS)


def update_of(tx, task_grads=TASK_GRADS, params=PARAMS, **extras):
    return jax.jit(tx.update)(task_grads, tx.init(params), params, **extras)


def alone(name, **extras):
    """What a method makes of the trunk without heads."""
    return update_of(getattr(mtl, name)(3), TASK_GRADS["trunk"], PARAMS["trunk"], **extras)


def own_gradients():
    """The gradient of each head's own loss, by jax.grad."""
    return [jax.grad(lambda params, i=i: losses_fn(params)[i])(PARAMS)["heads"][i] for i in range(3)]


@pytest.mark.parametrize("name", ["mgda", "nash_mtl", "trimmed_mean", "pcgrad"])
def test_the_trunk_is_aggregated_alone_and_heads_get_their_own_gradients(name):
    tx = mtl.trunk_and_heads(getattr(mtl, name)(3), mtl.shared_leaves(losses_fn, PARAMS))
    update, state = update_of(tx)
    expected, state_alone = alone(name)
    for left, right in zip(jax.tree.leaves(update["trunk"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)
    for head, own in zip(update["heads"], own_gradients(), strict=True):
        np.testing.assert_allclose(head, own, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(diagnostics.read(state).weights, state_alone.weights, rtol=1e-5)


def test_with_the_sum_it_is_the_gradient_of_the_sum():
    update, _ = update_of(mtl.trunk_and_heads(mtl.sum(), MASK))
    expected = jax.grad(lambda params: jnp.sum(losses_fn(params)))(PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), update, expected)


@pytest.mark.standard_promotion
def test_a_whole_optimiser_learns_and_keeps_its_state_inside_a_scan():
    """Clipping of tasks, a schedule, weight decay, accumulation and a guard, each where it belongs."""
    schedule = optax.cosine_decay_schedule(3e-2, 100)
    chain = optax.chain(
        mtl.clip_task_norms(10.0),
        mtl.trunk_and_heads(mtl.mgda(num_tasks=3), mtl.shared_leaves(losses_fn, PARAMS)),
        optax.clip_by_global_norm(10.0),
        optax.adamw(schedule, weight_decay=1e-4),
    )
    tx = mtl.accumulate(mtl.guard(chain, num_tasks=3), every_k=2, num_tasks=3)

    def step(carry, _):
        params, state = carry
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
        updates, state = tx.update(task_grads, state, params, losses=losses)
        return (optax.apply_updates(params, updates), state), (losses, diagnostics.read(state).weights)

    start = (PARAMS, tx.init(PARAMS))
    end, (losses, weights) = jax.jit(lambda carry: jax.lax.scan(step, carry, length=80))(start)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), end) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), start
    )
    assert np.all(losses[-1] < 0.6 * losses[0])
    np.testing.assert_allclose(np.sum(weights[2:], axis=1), 1, rtol=1e-5)


def test_an_absent_task_leaves_its_head_alone_whatever_its_row_holds():
    broken = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), TASK_GRADS)
    present = jnp.array([True, False, True])
    update, state = update_of(mtl.trunk_and_heads(mtl.mgda(3), MASK), broken, present=present)
    expected, _ = alone("mgda", present=present)
    np.testing.assert_allclose(update["trunk"]["w"], expected["w"], rtol=1e-5, atol=1e-6)
    assert not np.any(update["heads"][1]) and np.any(update["heads"][0]) and diagnostics.read(state).weights[1] == 0


@pytest.mark.parametrize("where", ["trunk", "head"])
def test_a_broken_task_is_dropped_in_the_trunk_and_in_its_head(where):
    """Wherever it is broken; and under "skip" nothing moves at all."""
    broken = jax.tree.map(lambda leaf: leaf, TASK_GRADS)
    if where == "head":
        broken["heads"][1] = broken["heads"][1].at[1, 0].set(jnp.inf)
    else:
        broken["trunk"]["b"] = broken["trunk"]["b"].at[1, 0].set(jnp.nan)
    dropped, _ = update_of(mtl.trunk_and_heads(mtl.mgda(3), MASK, nonfinite="drop_task"), broken)
    told, _ = update_of(mtl.trunk_and_heads(mtl.mgda(3), MASK), present=jnp.array([True, False, True]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), dropped, told)
    skipped, _ = update_of(mtl.trunk_and_heads(mtl.mgda(3), MASK, nonfinite="skip"), broken)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(skipped))
    losses = LOSSES.at[1].set(jnp.nan)
    by_loss, _ = update_of(mtl.trunk_and_heads(mtl.mgda(3), MASK, nonfinite="drop_task"), losses=losses)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), by_loss, told)


def test_heads_keep_every_bit_of_a_half_precision_gradient():
    rows = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), TASK_GRADS)
    update, _ = update_of(mtl.trunk_and_heads(mtl.mgda(3), MASK), rows)
    for task, head in enumerate(update["heads"]):
        assert head.dtype == jnp.bfloat16
        np.testing.assert_array_equal(head, rows["heads"][task][task])


def test_gradients_of_a_second_batch_are_split_too():
    tx = mtl.trunk_and_heads(mtl.modo(3), MASK)
    update, _ = update_of(tx, second_task_grads=TASK_GRADS)
    expected, _ = alone("modo", second_task_grads=TASK_GRADS["trunk"])
    np.testing.assert_allclose(update["trunk"]["w"], expected["w"], rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; see XLA_FLAGS in conftest.py")
def test_split_parameters_are_not_gathered():
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.tree.map(lambda leaf: NamedSharding(mesh, P(*[None] * (leaf.ndim - 1), "model")), TASK_GRADS)
    like_params = jax.tree.map(lambda leaf: NamedSharding(mesh, P(*[None] * (leaf.ndim - 1), "model")), PARAMS)
    tx = mtl.trunk_and_heads(mtl.mgda(3), MASK)
    step = jax.jit(lambda rows: tx.update(rows, tx.init(PARAMS))[0], out_shardings=like_params)
    program = step.lower(jax.device_put(TASK_GRADS, split)).compile()
    count = collectives(program)
    assert count["all-gather"] == count["all-to-all"] == 0 and count["all-reduce"] <= 1
    expected, _ = update_of(tx)
    update = program(jax.device_put(TASK_GRADS, split))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), update, expected)


def test_what_it_cannot_do_is_said():
    other = {"trunk": True, "tails": False}
    with pytest.raises(ValueError, match=r"got a leaf \['tails'\] where they have \['heads'\]"):
        mtl.trunk_and_heads(mtl.mgda(3), other).init({"trunk": jnp.zeros(2), "heads": jnp.zeros(2)})
    with pytest.raises(ValueError, match="False everywhere; .* mtl.sum"):
        update_of(mtl.trunk_and_heads(mtl.mgda(), {"trunk": False, "heads": False}))
    with pytest.raises(ValueError, match="expected nonfinite"):
        mtl.trunk_and_heads(mtl.mgda(), MASK, nonfinite="ignore")


# Which leaves are shared, read off the program.


def test_three_levels_of_sharing():
    """What two of three tasks share is shared; what nobody uses is not; counters stay where they were."""
    params = {"all": jnp.ones(2), "two": jnp.ones(2), "one": jnp.ones(2), "none": jnp.ones(2), "count": jnp.array(0)}

    def losses_fn(params):
        return {
            "a": jnp.sum(params["all"] * params["two"]),
            "b": jnp.sum(params["two"] ** 2 * params["all"]),
            "c": jnp.sum(params["one"] * params["all"]),
        }

    found = mtl.shared_leaves(losses_fn, params)
    assert found == {"all": True, "two": True, "one": False, "none": False, "count": True}
    assert mtl.shared_leaves(losses_fn, jax.eval_shape(lambda: params)) == found
    assert all(jax.tree.leaves(mtl.shared_leaves(lambda params: [jnp.sum(params["all"])], params)))


OUTPUTS = {  # of heads in one array, (T, batch)
    "columns": lambda hidden, heads: (hidden @ heads.T).T,
    "mapped": lambda hidden, heads: jax.vmap(lambda head: hidden @ head)(heads),
    "rematerialised": lambda hidden, heads: jax.checkpoint(lambda h, k: jnp.einsum("bh,th->tb", h, k))(hidden, heads),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_heads_in_one_array_are_heads(name):
    params = {"trunk": PARAMS["trunk"]["w"], "heads": jnp.stack(PARAMS["heads"])}
    losses_fn = lambda params: jnp.mean(
        (OUTPUTS[name](jnp.tanh(X @ params["trunk"]), params["heads"]) - Y) ** 2, axis=1
    )
    mask = mtl.shared_leaves(losses_fn, params)
    assert mask == {"trunk": True, "heads": False}
    _, rows = mtl.task_value_and_grad(losses_fn)(params)
    update, _ = mtl.trunk_and_heads(mtl.mgda(), mask).update(rows, optax.MaskedState(optax.EmptyState()))
    expected = jax.grad(lambda params: jnp.sum(losses_fn(params)))(params)["heads"]
    np.testing.assert_allclose(update["heads"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("frozen", ["still", "near"])
def test_with_a_frozen_leaf_a_broken_task_and_members_all_at_once(frozen):
    """In the trunk or in a head, behind Adam and the guard; the third task has no labels in one of two members."""

    def losses_fn(params, count):
        hidden = jnp.tanh(params["trunk"] + params["still"])
        near, far = jnp.sum((hidden - params["near"]) ** 2), jnp.sum((hidden + params["far"]) ** 2)
        return near, far, jnp.sum(hidden**2) * count / count

    params = {"trunk": jnp.ones(3), "still": jnp.ones(3), "near": jnp.zeros(3), "far": jnp.full(3, 2.0)}
    shared = mtl.shared_leaves(losses_fn, params, 1.0)
    labels = {name: "freeze" if name == frozen else "train" for name in params}
    trained = optax.chain(mtl.trunk_and_heads(mtl.mgda(num_tasks=3), shared, nonfinite="drop_task"), optax.adam(1e-2))
    tx = optax.partition({"train": mtl.guard(trained, num_tasks=3), "freeze": mtl.freeze()}, labels)

    def step(count):
        _, task_grads = mtl.task_value_and_grad(losses_fn)(params, count)
        return tx.update(task_grads, tx.init(params), params)[0]

    updates = jax.jit(jax.vmap(step))(jnp.array([1.0, 0.0]))
    for name, update in updates.items():
        assert np.all(update == 0) if name == frozen else np.all(np.isfinite(update)) and np.all(update != 0)
