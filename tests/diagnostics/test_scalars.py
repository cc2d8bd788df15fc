"""A flat dict of named numbers from any state, the same from the host and from inside a program."""

import csv
import io
import json

import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtlgrad_jax as mtl
from mtlgrad_jax.diagnostics import scalars

pytestmark = pytest.mark.standard_promotion

TASK_GRADS = {"a": jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), "b": jnp.array([[0.5], [-0.5]])}
PARAMS = {"a": jnp.zeros(3), "b": jnp.zeros(1)}
ROWS = np.concatenate([TASK_GRADS["a"], TASK_GRADS["b"]], axis=1)
UNIT = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
NAMES = ("left", "right")


def state_of(tx, task_grads=TASK_GRADS):
    return jax.jit(tx.update)(task_grads, tx.init(PARAMS), PARAMS)[1]


def test_every_number_is_what_its_key_says():
    """Judged by NumPy on the rows themselves; the tasks are those that oppose each other."""
    found = scalars(state_of(optax.chain(mtl.sum(2), optax.sgd(0.1))), NAMES)
    assert found == {"weight/left": 1.0, "weight/right": 1.0, "num_nonfinite/left": 0, "num_nonfinite/right": 0}
    found = scalars(state_of(optax.chain(mtl.upgrad(2), optax.sgd(0.1))), NAMES)
    weights = np.array([found["weight/left"], found["weight/right"]])
    u = weights @ ROWS
    expected = {
        "length/left": np.linalg.norm(ROWS[0]),
        "length/right": np.linalg.norm(ROWS[1]),
        "cosine/left/right": UNIT[0] @ UNIT[1],
        "alignment/left": UNIT[0] @ u / np.linalg.norm(u),
        "alignment/right": UNIT[1] @ u / np.linalg.norm(u),
        "worst_cosine": UNIT[0] @ UNIT[1],
        "conflicting_pairs": 1,
        "num_hurt": 0,
        "num_nonfinite/left": 0,
    }
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-3, err_msg=key)
    assert found["gap"] < 1e-5 and "cosine/right/left" not in found and len(found) == 18
    summary = mtl.diagnostics.summarize(jnp.asarray(ROWS @ ROWS.T), jnp.asarray(weights, jnp.float32))
    for key, value in summary._asdict().items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-6)


def test_loggers_take_it_as_it_is():
    found = scalars(state_of(mtl.mgda(2)))
    assert all(type(value) in (float, int) for value in found.values()) and "weight/0" in found
    json.dumps(found)
    table = csv.DictWriter(io.StringIO(), fieldnames=list(found))
    table.writerow(found)


def test_the_step_and_the_accumulation_are_told_too():
    tx = mtl.accumulate(mtl.guard(optax.chain(mtl.mean(2), optax.adam(0.1)), num_tasks=2), every_k=2, num_tasks=2)
    state = state_of(tx)
    assert scalars(state, NAMES)["micro_step"] == 1 and scalars(state, NAMES)["examples/left"] == 1
    opposed = {"a": jnp.array([[1.0, 20.0, 0.0], [1.0, -10.0, 0.0]]), "b": jnp.zeros((2, 1))}
    guarded = mtl.guard(optax.chain(mtl.mean(2), optax.adam(0.1)), num_tasks=2)
    found, record = scalars(state_of(guarded, opposed), NAMES), mtl.diagnostics.read_step(state_of(guarded, opposed))
    assert found["step/num_hurt"] == 0 and found["step/cosine_before/right"] < -0.5
    assert found["step/cosine/right"] == record.cosines_after[1] and found["step/certificate"] == record.certificate
    assert found["step/multiplier/right"] == record.multipliers[1] > 0 == found["step/multiplier/left"]


def test_several_records_are_named_by_where_they_stand():
    labels = {"a": "trunk", "b": "rest"}
    groups = optax.partition({"trunk": mtl.mgda(2), "rest": mtl.for_tasks(mtl.mean(2), (0,))}, labels)
    found = scalars(state_of(optax.chain(groups, optax.adam(0.1))), NAMES)
    assert found["rest/weight/left"] == 1 and found["rest/weight/right"] == 0
    np.testing.assert_allclose(
        found["trunk/weight/left"], mtl.weightings.mgda(ROWS[:, :3] @ ROWS[:, :3].T)[0], rtol=1e-5
    )
    assert "gap" not in found and "trunk/gap" in found
    found = scalars((state_of(mtl.mgda(2)), {"x": state_of(mtl.mgda(2))}), NAMES)
    assert {"0/gap", "1/x/gap"} <= set(found)
    tx = optax.chain(mtl.trunk_and_heads(mtl.mgda(2), {"a": True, "b": False}), optax.adam(0.1))
    assert "gap" in scalars(state_of(tx), NAMES)


def test_a_program_returns_the_same_numbers():
    tx = optax.chain(mtl.mgda(2), optax.adam(0.1))

    def step(state, _):
        _, state = tx.update(TASK_GRADS, state, PARAMS)
        return state, scalars(state, NAMES)

    state, stacked = jax.jit(lambda state: jax.lax.scan(step, state, length=2))(tx.init(PARAMS))
    assert all(value.shape == (2,) for value in stacked.values())
    outside = scalars(state, NAMES)
    assert outside.keys() == stacked.keys()
    for key, value in outside.items():
        np.testing.assert_allclose(stacked[key][-1], value, rtol=1e-5, atol=1e-6)
    several = jax.vmap(lambda state: scalars(state, NAMES))(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state))
    assert several["gap"].shape == (2,)


def test_lengths_are_told_in_the_units_of_the_gradients_at_any_scale():
    found = scalars(state_of(mtl.mgda(2), jax.tree.map(lambda leaf: leaf * 1e-30, TASK_GRADS)), NAMES)
    np.testing.assert_allclose(found["length/left"], 1e-30 * np.linalg.norm(ROWS[0]), rtol=1e-5)


def test_states_of_flax_and_of_a_loop_of_ones_own():
    model = flax.nnx.Linear(1, 3, use_bias=False, rngs=flax.nnx.Rngs(0))
    optimizer = flax.nnx.Optimizer(model, optax.chain(mtl.mgda(2), optax.adam(0.1)), wrt=flax.nnx.Param)
    _, params = flax.nnx.split(model, flax.nnx.Param)
    optimizer.update(model, jax.tree.map(lambda leaf: TASK_GRADS["a"].reshape(2, *leaf.shape), params))
    assert scalars(optimizer.opt_state, NAMES)["num_hurt"] == 0
    losses_fn = lambda params: jnp.stack([jnp.sum((params - 1) ** 2), jnp.sum((params + 1) ** 2)])
    _, _, info = mtl.descent_direction(losses_fn, jnp.zeros(3), mtl.weightings.mgda)
    assert scalars(info, {"left": 0, "right": 0})["cosine/left/right"] == pytest.approx(-1)


def test_one_sentence_for_what_cannot_be_told():
    with pytest.raises(ValueError, match=r"got none; make the method with num_tasks=T"):
        scalars(optax.adam(0.1).init(PARAMS))
    for names in (["left"], ["left", "left"]):
        with pytest.raises(ValueError, match="expected 2 different names, one per task, got"):
            scalars(mtl.mgda(2).init(PARAMS), names)
    for method in (mtl.mgda, mtl.sum):
        with pytest.raises(ValueError, match=r"vmap"):
            scalars(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), method(2).init(PARAMS)))
