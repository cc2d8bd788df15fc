"""Transformations with randomness or memory: reproducible, stable under scan, and true to the rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import mtlgrad_jax as mtl

RANDOM = {"pcgrad": mtl.pcgrad, "gradvac": mtl.gradvac, "random_weights": mtl.random_weights, "graddrop": mtl.graddrop}
STATEFUL = {
    "pcgrad": mtl.pcgrad(3, key=1),
    "gradvac": mtl.gradvac(3, key=1),
    "graddrop": mtl.graddrop(3, key=1),
    "bloop": mtl.bloop(3),
    "cr_mogm": mtl.cr_mogm(3),
    "dwa": mtl.dwa(3),
    "excess_mtl": mtl.excess_mtl(3),
    "famo": mtl.famo(3),
    "gradnorm": mtl.gradnorm(3),
    "imtl_l": mtl.imtl_l(3),
    "loss_balanced": mtl.loss_balanced(3),
    "moco": mtl.moco(3),
    "modo": mtl.modo(3),
    "sdmgrad": mtl.sdmgrad(3),
    "uncertainty": mtl.uncertainty(3),
}
PARAMS = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(4, jnp.bfloat16), "n": jnp.zeros((), jnp.int32)}


def inputs(num_steps=5, num_tasks=3):
    """Stacked gradients, losses and the gradients of a second batch for some steps, with a leading step axis."""
    return jax.device_get(draw_inputs(num_steps, num_tasks))


@partial(jax.jit, static_argnums=(0, 1))
def draw_inputs(num_steps, num_tasks):
    keys = jax.random.split(jax.random.key(7), 5)
    normal = lambda key, *shape: jax.random.normal(key, (num_steps, num_tasks, *shape))

    def stack(first, second):
        integers = jnp.zeros((num_steps, num_tasks), jnp.int32)
        return {"w": normal(first, 2, 3), "b": normal(second, 4).astype(jnp.bfloat16), "n": integers}

    return stack(keys[0], keys[1]), {
        "losses": jax.random.uniform(keys[2], (num_steps, num_tasks), minval=0.5, maxval=2.0),
        "second_task_grads": stack(keys[3], keys[4]),
    }


def at(step, tree):
    return jax.tree.map(lambda leaf: leaf[step], tree)


def run(tx, steps, extras, params=PARAMS):
    update = jax.jit(tx.update)
    state, outputs = tx.init(params), []
    for step in range(jax.tree.leaves(steps)[0].shape[0]):
        out, state = update(at(step, steps), state, params, **at(step, extras))
        outputs.append(out)
    return outputs, state


@pytest.mark.parametrize("name", RANDOM)
def test_reproducible_from_the_key_and_different_between_steps(name):
    rng = np.random.default_rng(0)
    opposed = np.where(np.arange(5) % 2, 1.0, -1.0)[:, None] * rng.standard_normal(9) + rng.standard_normal((5, 9))
    steps = jnp.tile(jnp.asarray(opposed, jnp.float32), (6, 1, 1))
    outputs = {}
    for label, key in (("seed", 3), ("same", jax.random.key(3)), ("legacy", jax.random.PRNGKey(3)), ("other", 4)):
        outputs[label] = np.stack(run(RANDOM[name](5, key=key), steps, {}, jnp.zeros(9))[0])
    np.testing.assert_array_equal(outputs["seed"], outputs["same"])
    np.testing.assert_array_equal(outputs["seed"], outputs["legacy"])
    assert np.abs(outputs["seed"] - outputs["other"]).max() > 1e-3
    if name != "gradvac":  # whose targets make steps differ anyway
        assert np.abs(np.diff(outputs["seed"], axis=0)).max() > 1e-3


@pytest.mark.parametrize("name", ["pcgrad", "random_weights", "graddrop"])
def test_a_key_needs_no_number_of_tasks(name):
    tx = RANDOM[name](key=0)
    state = tx.init(jnp.zeros(4))
    _, after = tx.update(jnp.ones((2, 4)), state)
    tx.update(jnp.ones((3, 4)), after)
    assert np.any(after.key != state.key)


@pytest.mark.parametrize("name", STATEFUL)
def test_scan_is_the_python_loop_and_the_state_keeps_its_type(name):
    tx, (steps, extras) = STATEFUL[name], inputs()
    outputs, state = run(tx, steps, extras)

    def body(state, step):
        task_grads, extra = step
        out, state = tx.update(task_grads, state, PARAMS, **extra)
        return state, out

    start = tx.init(PARAMS)
    typed = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)
    assert typed(start) == typed(state)
    scanned_state, scanned = jax.jit(lambda state: lax.scan(body, state, (steps, extras)))(start)
    for leaf, other in zip(jax.tree.leaves(scanned), jax.tree.leaves(stack(outputs)), strict=True):
        assert leaf.dtype == other.dtype
        rounding = 1e-2 if leaf.dtype == jnp.bfloat16 else 1e-4
        np.testing.assert_allclose(wide(leaf), wide(other), rtol=rounding, atol=1e-5)
    for leaf, other in zip(jax.tree.leaves(scanned_state), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(wide(leaf), wide(other), rtol=1e-4, atol=1e-4)


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def wide(leaf):
    return np.asarray(leaf, np.float64)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", ["gradvac", "moco", "famo", "graddrop"])
def test_survives_a_checkpoint_and_a_change_of_schedule(name):
    """The state saved as plain arrays resumes bit for bit; a new learning rate sees the same updates before it."""
    steps, extras = inputs(6)
    transformation = STATEFUL[name]

    def train(schedule, resume=False):
        tx = optax.chain(transformation, optax.sgd(schedule))
        update = jax.jit(tx.update)
        state, outputs = tx.init(PARAMS), []
        for step in range(6):
            if resume and step == 3:
                leaves, treedef = jax.tree.flatten(state)
                state = jax.tree.unflatten(treedef, [jnp.asarray(np.asarray(leaf)) for leaf in leaves])
            out, state = update(at(step, steps), state, PARAMS, **at(step, extras))
            outputs.append(np.asarray(out["w"]))
        return np.stack(outputs)

    plain = train(0.5)
    np.testing.assert_array_equal(plain, train(0.5, resume=True))
    halved = train(optax.piecewise_constant_schedule(0.5, {3: 0.5}))
    np.testing.assert_allclose(halved, plain * np.array([1, 1, 1, 0.5, 0.5, 0.5])[:, None, None], rtol=1e-6)


def rows_of(task_grads, step):
    return np.concatenate([wide(task_grads[k][step]).reshape(3, -1) for k in ("b", "w")], axis=1)


def flat(update):
    return np.concatenate([wide(update[k]).ravel() for k in ("b", "w")])


def float_inputs():
    steps, extras = inputs()
    steps["b"] = steps["b"].astype(jnp.float32)
    return steps, extras


def project_simplex(point):
    descending = np.sort(point)[::-1]
    levels = (np.cumsum(descending) - 1) / np.arange(1, len(point) + 1)
    return np.maximum(point - levels[np.nonzero(descending > levels)[0][-1]], 0)


def test_moco_against_its_paper():
    steps, extras = float_inputs()
    params = PARAMS | {"b": jnp.zeros(4)}
    outputs, state = run(mtl.moco(3, beta=0.5, gamma=0.03, rho=0.2), steps, extras, params)
    average, weights = 0, np.full(3, 1 / 3)
    for step, out in enumerate(outputs):
        average = average + 0.5 * (rows_of(steps, step) - average)
        point = weights - 0.03 * (average @ average.T + 0.2 * np.eye(3)) @ weights
        weights = project_simplex(point)
        np.testing.assert_allclose(flat(out), average.T @ weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.weights, weights, atol=1e-5)


def test_excess_mtl_against_its_paper():
    steps, extras = float_inputs()
    params = PARAMS | {"b": jnp.zeros(4)}
    for size in (1.0, 2.0**-80):
        scaled = jax.tree.map(lambda leaf, size=size: leaf * jnp.asarray(size, leaf.dtype), steps)
        outputs, state = run(mtl.excess_mtl(3, learning_rate=0.7), scaled, extras, params)
        squares, weights, initial = 0, np.full(3, 1 / 3), None
        for step, out in enumerate(outputs):
            rows = rows_of(steps, step)
            squares = squares + rows**2
            excess = (rows**2 / np.sqrt(squares)).sum(1)
            if initial is None:
                initial = excess
            else:
                weights = weights * np.exp(0.7 * excess / initial)
                weights = weights / weights.sum()
            np.testing.assert_allclose(flat(out) / size, rows.T @ weights, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state.weights, weights, atol=1e-5)


def test_loss_balanced_against_its_paper():
    steps, extras = float_inputs()
    params = PARAMS | {"b": jnp.zeros(4)}
    outputs, _ = run(mtl.loss_balanced(3, beta=0.6), steps, extras, params)
    average = None
    for step, out in enumerate(outputs):
        relative = rows_of(steps, step) / wide(extras["losses"][step])[:, None]
        average = relative if average is None else 0.6 * average + 0.4 * relative
        lengths = np.linalg.norm(average, axis=1)
        np.testing.assert_allclose(flat(out), average.T @ (lengths.max() / lengths), rtol=1e-4, atol=1e-5)


def test_bloop_against_its_paper():
    steps, extras = float_inputs()
    params = PARAMS | {"b": jnp.zeros(4)}
    for size in (1.0, 2.0**-80):
        scaled = jax.tree.map(lambda leaf, size=size: leaf * jnp.asarray(size, leaf.dtype), steps)
        outputs, _ = run(mtl.bloop(3, strength=jnp.array([0.3, 0.8]), ema=0.2), scaled, extras, params)
        mean = None
        for step, out in enumerate(outputs):
            rows = rows_of(steps, step)
            mean = rows[0] if mean is None else 0.8 * mean + 0.2 * rows[0]
            across = rows[1:] - np.outer(rows[1:] @ mean, mean) / (mean @ mean)
            np.testing.assert_allclose(flat(out) / size, rows[0] + [0.3, 0.8] @ across, rtol=1e-4, atol=1e-5)


def test_double_sampling_is_made_of_both_batches():
    steps, extras = float_inputs()
    extras["second_task_grads"]["b"] = extras["second_task_grads"]["b"].astype(jnp.float32)
    params = PARAMS | {"b": jnp.zeros(4)}
    outputs, _ = run(mtl.modo(3, gamma=0.03, rho=0.2), steps, extras, params)
    weights = np.full(3, 1 / 3)
    for step, out in enumerate(outputs):
        first, second = rows_of(steps, step), rows_of(extras["second_task_grads"], step)
        point = weights - 0.03 * (first @ second.T + 0.2 * np.eye(3)) @ weights
        weights = project_simplex(point)
        np.testing.assert_allclose(flat(out), (first + second).T @ weights / 2, rtol=1e-4, atol=1e-5)


def test_graddrop_keeps_one_sign_per_coordinate_with_the_right_frequency():
    column = jnp.tile(jnp.array([[3.0], [1.0], [-2.0], [-2.0]]), (1, 4000))
    tx = mtl.graddrop(key=0)
    update = np.asarray(tx.update(column, tx.init(jnp.zeros(4000)))[0])
    assert set(np.unique(update)) == {-4.0, 4.0}
    assert abs(np.mean(update > 0) - 0.5) < 0.04
    biased = jnp.tile(jnp.array([[3.0], [-1.0]]), (1, 4000))
    update = np.asarray(tx.update(biased, tx.init(jnp.zeros(4000)))[0])
    assert abs(np.mean(update > 0) - 0.75) < 0.04
    leaky = mtl.graddrop(key=0, leak=jnp.array([1.0, 0.0]))
    update = np.asarray(leaky.update(biased, leaky.init(jnp.zeros(4000)))[0])
    assert set(np.unique(update)) == {2.0, 3.0}


def test_trimmed_mean_is_the_sorted_mean_and_survives_a_bad_row():
    rows = np.random.default_rng(0).standard_normal((5, 50)).astype(np.float32)
    tx = mtl.trimmed_mean(trim=1)
    expected = np.sort(rows, axis=0)[1:4].mean(0)
    np.testing.assert_allclose(tx.update(jnp.asarray(rows), tx.init(jnp.zeros(50)))[0], expected, rtol=1e-5)
    rows[2] = np.nan
    bad = tx.update(jnp.asarray(rows), tx.init(jnp.zeros(50)))[0]
    np.testing.assert_allclose(bad, np.sort(rows, axis=0)[1:4].mean(0), rtol=1e-5)
    with pytest.raises(ValueError, match="lower trim"):
        tx.update(jnp.ones((2, 3)), tx.init(jnp.zeros(3)))


ROW_METHODS = {
    "graddrop": mtl.graddrop,
    "trimmed_mean": mtl.trimmed_mean,
    "excess_mtl": mtl.excess_mtl,
    "moco": mtl.moco,
    "loss_balanced": mtl.loss_balanced,
    "bloop": mtl.bloop,
}


@pytest.mark.parametrize("name", ROW_METHODS)
def test_row_methods_follow_the_policy_for_bad_gradients(name):
    rows = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    bad = rows.copy()
    bad[2, 1] = np.nan
    losses = jnp.ones(4)
    for policy in ("skip", "drop_task"):
        tx = ROW_METHODS[name](4, nonfinite=policy)
        update = jax.jit(tx.update)
        _, state = update(jnp.asarray(rows), tx.init(jnp.zeros(6)), losses=losses)
        out, after = update(jnp.asarray(bad), state, losses=losses)
        assert np.all(np.isfinite(out)) and np.all(np.isfinite(jax.tree.leaves(after)[0]))
        np.testing.assert_array_equal(after.num_nonfinite, [0, 0, 1, 0])
        if policy == "skip":
            assert np.all(out == 0)
            jax.tree.map(np.testing.assert_array_equal, after.memory, state.memory)
        else:
            present = jnp.array([True, True, False, True])
            expected, _ = update(jnp.asarray(rows), state, losses=losses, present=present)
            np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ROW_METHODS if name != "trimmed_mean"])
def test_row_methods_answer_at_the_corners(name):
    with jax.debug_nans(True):
        for rows in (
            np.zeros((3, 4)),
            np.ones((3, 4)),
            np.outer([1, -1, 1], np.ones(4)),
            np.outer([0, 1, 2], np.arange(4)),
            np.random.default_rng(0).standard_normal((3, 4)) * 1e15,
            np.random.default_rng(0).standard_normal((3, 4)) * 1e-15,
            np.ones((1, 4)),
        ):
            tx = ROW_METHODS[name](rows.shape[0])
            state = tx.init(jnp.zeros(4))
            for _ in range(2):
                losses = jnp.ones(rows.shape[0])
                out, state = tx.update(jnp.asarray(rows, jnp.float32), state, losses=losses)
                assert np.all(np.isfinite(out)) and np.isfinite(state.gap)


def test_momentum_conflict_free_against_its_paper():
    rng = np.random.default_rng(0)
    tx = mtl.momentum_conflict_free(2, b1=0.8, b2=0.9)
    update = jax.jit(tx.update)
    state = tx.init(jnp.zeros(5))
    m, n, combined, squares, t = np.zeros((2, 5)), np.zeros(2), np.zeros(5), np.zeros(5), 0
    for step in range(8):
        gradient = rng.standard_normal(5)
        out, state = update(jnp.asarray(gradient, jnp.float32), state)
        i = step % 2
        m[i], n[i] = 0.8 * m[i] + 0.2 * gradient, n[i] + 1
        if step == 0:
            assert np.all(out == 0)
            continue
        t += 1
        means = m / (1 - 0.8 ** n[:, None])
        unit = means / np.linalg.norm(means, axis=1, keepdims=True)
        middle = np.linalg.pinv(unit) @ np.ones(2)
        middle /= np.linalg.norm(middle)
        direction = (means @ middle).sum() * middle
        pseudo = ((1 - 0.8**t) * direction - 0.8 * combined) / 0.2
        combined = (1 - 0.8**t) * direction
        squares = 0.9 * squares + 0.1 * pseudo**2
        np.testing.assert_allclose(out, direction / (np.sqrt(squares / (1 - 0.9**t)) + 1e-8), rtol=1e-4, atol=1e-5)
    assert int(state.memory.next_task) == 0
    with pytest.raises(ValueError, match="plain gradient of one task"):
        tx.update(jnp.ones((2, 5)), state)


@pytest.mark.parametrize("policy", ["skip", "drop_task"])
def test_momentum_conflict_free_with_a_bad_gradient(policy):
    tx = mtl.momentum_conflict_free(2, nonfinite=policy)
    update = jax.jit(tx.update)
    state = tx.init(jnp.zeros(2))
    for gradient in ([1.0, 0.0], [0.0, 1.0]):
        _, state = update(jnp.array(gradient), state)
    out, after = update(jnp.array([jnp.nan, 1.0]), state)
    np.testing.assert_array_equal(after.memory.momenta, state.memory.momenta)
    np.testing.assert_array_equal(after.num_nonfinite, [1, 0])
    assert np.all(np.isfinite(out)) and (np.all(out == 0) if policy == "skip" else np.all(out > 0))


def test_a_second_batch_is_asked_for():
    tx = mtl.modo(2)
    with pytest.raises(ValueError, match="second, independent batch"):
        tx.update(jnp.eye(2), tx.init(jnp.zeros(2)))


def test_memory_is_asked_for():
    with pytest.raises(ValueError, match="pass the number of tasks"):
        mtl.moco()


@pytest.mark.parametrize("name", [*STATEFUL, "momentum_conflict_free"])
def test_double_precision_keeps_the_types_of_updates_and_states(name):
    with jax.enable_x64(True):
        params = {"wide": jnp.zeros(4, jnp.float64), "narrow": jnp.zeros(2, jnp.float32)}
        rows = jax.tree.map(lambda leaf: jnp.ones((3, *leaf.shape), leaf.dtype), params)
        tx = getattr(mtl, name)(3)
        start = jax.eval_shape(tx.init, params)
        first = params if name == "momentum_conflict_free" else rows
        extras = {"losses": jnp.ones(3, jnp.float32), "second_task_grads": rows}
        update, state = jax.eval_shape(lambda state: tx.update(first, state, params, **extras), start)
    assert jax.tree.map(lambda leaf: leaf.dtype, update) == jax.tree.map(lambda leaf: leaf.dtype, params)
    assert jax.tree.map(lambda leaf: leaf.dtype, state) == jax.tree.map(lambda leaf: leaf.dtype, start)


def at_the_activation(method, x, seed=0):
    """Return losses and update of a network of 3 units and 4 heads, as an encoder and a rest."""
    rng = np.random.default_rng(seed)
    trunk, heads = rng.standard_normal((5, 3)).astype(np.float32), rng.standard_normal((3, 4)).astype(np.float32)
    encoder_fn = lambda trunk, x: jnp.tanh(x @ trunk)
    heads_fn = lambda heads, hidden, x: jnp.mean((hidden @ heads - x[:, :1]) ** 2, axis=0)
    step = lambda: mtl.descent_direction((encoder_fn, heads_fn), (trunk, heads), method, x, method="shared_encoder")
    losses, update, _ = jax.jit(step)()
    hidden, pull = jax.vjp(lambda trunk: encoder_fn(trunk, x), trunk)
    rows = jax.jacrev(lambda hidden: heads_fn(heads, hidden, x))(hidden)
    own = jax.grad(lambda heads: jnp.sum(heads_fn(heads, hidden, x)))(heads)
    return update, np.asarray(hidden), np.asarray(rows), pull, own


def test_at_the_activation_graddrop_is_pulled_back_and_heads_keep_their_own():
    """What GradDrop's paper does: one sign per unit of the activation, and each its share of the votes."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal((8, 5)), jnp.float32)
    update, hidden, rows, pull, own = at_the_activation(mtl.methods.graddrop.rows(batch_axis=0, key=3), x)
    votes = np.einsum("bu,tbu->tu", np.sign(hidden), rows)
    candidates = []
    for signs in np.stack(np.meshgrid(*[[-1, 1]] * 3), axis=-1).reshape(-1, 3):
        kept = np.where(votes * signs > 0, 1.0, 0.0)
        candidates.append(pull(jnp.asarray(np.einsum("tu,tbu->bu", kept, rows), jnp.float32))[0])
    assert min(np.abs(update[0] - candidate).max() for candidate in candidates) < 1e-6
    np.testing.assert_allclose(update[1], own, rtol=1e-5, atol=1e-6)


def test_other_methods_without_memory_work_at_the_activation_too():
    x = jnp.asarray(np.random.default_rng(1).standard_normal((8, 5)), jnp.float32)
    update, _, rows, pull, _ = at_the_activation(mtl.methods.trimmed_mean.rows(trim=1), x)
    expected = pull(jnp.asarray(np.sort(rows, axis=0)[1:3].mean(0), jnp.float32))[0]
    np.testing.assert_allclose(update[0], expected, rtol=1e-5, atol=1e-6)


def test_a_batch_axis_without_an_activation_is_refused():
    tx = mtl.aggregate(mtl.methods.graddrop.rows(batch_axis=0))
    with pytest.raises(ValueError, match="graddrop expected a shared representation for its batch_axis, got none"):
        tx.update(jnp.ones((2, 3)), tx.init(jnp.zeros(3)))
