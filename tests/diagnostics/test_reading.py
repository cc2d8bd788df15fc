"""The record is found in every optimiser's state, and a history is the same from a loop and from a scan."""

import flax.linen
import flax.nnx
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtlgrad_jax as mtl
from mtlgrad_jax import diagnostics

TASK_GRADS = {"shared": jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]), "head": jnp.array([[0.5], [0.5]])}
PARAMS = {"shared": jnp.zeros(3), "head": jnp.zeros(1)}
GRAM = mtl.jacobians.stacked.gram(TASK_GRADS)
SHARED_GRAM = mtl.jacobians.stacked.gram(TASK_GRADS["shared"])
LABELS = {"shared": "shared", "head": "head"}


def partitioned():
    return optax.partition({"shared": mtl.mgda(2), "head": mtl.sum()}, LABELS)


OPTIMIZERS = {
    "alone": lambda: mtl.mgda(2),
    "chained": lambda: optax.chain(mtl.mgda(2), optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "injected": lambda: optax.inject_hyperparams(
        lambda learning_rate: optax.chain(mtl.mgda(2), optax.sgd(learning_rate))
    )(learning_rate=0.1),
    "accumulated": lambda: mtl.accumulate(optax.chain(mtl.mgda(2), optax.sgd(0.1)), every_k=1, num_tasks=2),
    "partitioned": lambda: optax.chain(partitioned(), optax.adam(0.1)),
    "of rows": lambda: optax.chain(mtl.trimmed_mean(2, trim=0), optax.adam(0.1)),
    "with memory": lambda: optax.chain(mtl.cr_mogm(2), optax.adam(0.1)),
}


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_record_is_found_wherever_it_lies(name):
    tx = OPTIMIZERS[name]()
    state = tx.init(PARAMS)
    assert diagnostics.read(state).gap == jnp.finfo(jnp.float32).max
    _, state = jax.jit(tx.update)(TASK_GRADS, state, PARAMS)
    reading = diagnostics.read(state)
    np.testing.assert_array_equal(reading.gram, SHARED_GRAM if name == "partitioned" else GRAM)
    assert reading.weights.shape == (2,) and reading.log2_scale == 0 and reading.gap < 1
    if name in ("alone", "chained", "injected", "accumulated"):
        np.testing.assert_allclose(reading.weights, mtl.weightings.mgda(GRAM))


@pytest.mark.standard_promotion
def test_the_record_is_found_in_the_states_of_flax():
    tx = optax.chain(mtl.mgda(2), optax.adam(0.1))
    state = flax.training.train_state.TrainState.create(apply_fn=None, params=PARAMS, tx=tx)
    state = jax.jit(lambda state: state.apply_gradients(grads=TASK_GRADS))(state)
    np.testing.assert_allclose(jax.jit(diagnostics.read)(state).weights, mtl.weightings.mgda(GRAM))

    model = flax.nnx.Linear(1, 3, use_bias=False, rngs=flax.nnx.Rngs(0))
    optimizer = flax.nnx.Optimizer(model, tx, wrt=flax.nnx.Param)
    _, params = flax.nnx.split(model, flax.nnx.Param)
    optimizer.update(model, jax.tree.map(lambda leaf: TASK_GRADS["shared"].reshape(2, *leaf.shape), params))
    np.testing.assert_array_equal(diagnostics.read(optimizer.opt_state).gram, SHARED_GRAM)


def test_the_record_of_a_loop_of_ones_own():
    losses_fn = lambda params: jnp.stack([jnp.sum((params - 1) ** 2), jnp.sum((params + 1) ** 2)])
    _, _, info = mtl.descent_direction(losses_fn, jnp.zeros(3), mtl.weightings.mgda)
    np.testing.assert_array_equal(diagnostics.read(info).gram, info.gram)


def test_a_method_that_forms_no_gram_matrix_records_its_weights():
    tx = mtl.sum(num_tasks=2)
    _, state = tx.update(TASK_GRADS, tx.init(PARAMS), PARAMS)
    reading, history = jax.jit(diagnostics.read)(state), diagnostics.History()
    assert reading.gram is None and reading.gap is None
    np.testing.assert_array_equal(reading.weights, [1, 1])
    history.append(state)
    history.append(state)
    assert len(history) == 2 and history["weights"].shape == (2, 2)
    with pytest.raises(ValueError, match="needs gram; .* records neither `gram` nor `gap`"):
        history.each(diagnostics.cosines)


def test_one_sentence_when_there_is_no_record_or_more_than_one():
    tx = optax.chain(mtl.mgda(), optax.adam(0.1))
    with pytest.raises(ValueError, match=r"^expected .* one method, got none; make the method with num_tasks=T, .*\.$"):
        diagnostics.read(tx.init(PARAMS))
    both = optax.partition({"shared": mtl.mgda(2), "head": mtl.upgrad(2)}, LABELS).init(PARAMS)
    with pytest.raises(ValueError, match=r"got 2; pass the part of the state that you mean\.$"):
        diagnostics.read(both)
    assert diagnostics.read(both.inner_states["head"]).gram.shape == (2, 2)


TX = optax.chain(mtl.mgda(num_tasks=2), optax.sgd(0.2))
CENTERS = jnp.array([[1.0, 0.0, 2.0], [-1.0, 1.0, 0.0]])


def step(carry, _=None):
    params, state = carry
    losses_fn = lambda params: jnp.sum((params[None, :] - CENTERS) ** 2, axis=1)
    losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
    updates, state = TX.update(task_grads, state, params)
    return (optax.apply_updates(params, updates), state), (diagnostics.read(state), losses)


@pytest.fixture(scope="module")
def scanned():
    start = jnp.array([0.5, 3.0, 1.0])
    readings, losses = jax.lax.scan(step, (start, TX.init(start)), length=5)[1]
    history = diagnostics.History()
    history.extend(readings, losses=losses)
    return history


def test_a_loop_that_donates_its_state_and_a_scan_record_the_same(scanned):
    params = jnp.array([0.5, 3.0, 1.0])
    state, looped = TX.init(params), diagnostics.History()
    donating = jax.jit(lambda params, state: step((params, state)), donate_argnums=(0, 1))
    for _ in range(5):
        (params, state), (_, losses) = donating(params, state)
        looped.append(state, losses=losses)
    assert len(looped) == len(scanned) == 5 and len(diagnostics.History()) == 0
    for name, shape in {
        "gram": (5, 2, 2),
        "weights": (5, 2),
        "gap": (5,),
        "log2_scale": (5,),
        "losses": (5, 2),
    }.items():
        assert looped[name].shape == shape
        np.testing.assert_allclose(looped[name], scanned[name], rtol=1e-5, atol=1e-6)


def test_diagnostics_of_every_step(scanned):
    cosines = scanned.each(diagnostics.cosines)
    for row, gram in zip(cosines, scanned["gram"], strict=True):
        np.testing.assert_allclose(row, diagnostics.cosines(jnp.asarray(gram)), atol=1e-6)
    assert scanned.each(diagnostics.alignment).shape == (5, 2)
    assert scanned.each(lambda losses: jnp.sum(losses)).shape == (5,)
    opposed = scanned.each(diagnostics.conflicts).any(axis=(1, 2))
    assert 0 < opposed.mean() < 1 and scanned.share_of_steps(diagnostics.conflicts) == opposed.mean()
    assert scanned.share_of_steps(diagnostics.hurt_tasks) == 0


def test_one_sentence_for_what_a_history_cannot_do(scanned):
    with pytest.raises(ValueError, match=r"expected a function of what was recorded \(.*\), got .* needs temperature;"):
        scanned.each(lambda gram, temperature: gram * temperature)
    with pytest.raises(ValueError, match="expected at every step what the first one measured"):
        scanned.append(TX.init(jnp.zeros(3)))
    with pytest.raises(ValueError, match="one leading axis of steps"):
        diagnostics.History().extend(diagnostics.read(TX.init(jnp.zeros(3))))
    with pytest.raises(KeyError, match="'accuracy'; there is 'gram'"):
        scanned["accuracy"]
