"""What is learned beside the network, by an optimiser of the user's choice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtlgrad_jax as mtl

LEARNED = ("famo", "gradnorm", "imtl_l", "self_adaptive", "uncertainty")
START = {"famo": 0.0, "gradnorm": 1.0, "imtl_l": 0.0, "uncertainty": 0.0}
NUM_STEPS = 6


def learned_by(name, state):
    """Return the numbers that are learned."""
    return getattr(state, {"famo": "logits", "gradnorm": "weights"}.get(name, "values"))


def steps(num_tasks=4, num_steps=NUM_STEPS):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((num_steps, num_tasks, 6)) * rng.uniform(0.5, 2, (num_tasks, 1))
    return rows.astype(np.float32), rng.uniform(0.5, 3, (num_steps, num_tasks)).astype(np.float32)


def run(tx, rows, losses, present=None):
    """Return the states of all steps, in one program."""

    def step(state, inputs):
        rows, losses, present = inputs
        extras = {} if present is None else {"present": present}
        _, state = tx.update(rows, state, losses=losses, **extras)
        return state, state

    return jax.lax.scan(step, tx.init(jnp.zeros(rows.shape[-1])), (rows, losses, present))[1]


def last(states):
    return jax.tree.map(lambda leaf: np.asarray(leaf[-1]), states)


class Adam:
    """PyTorch's, in NumPy: the decay is added to the slope."""

    def __init__(self, size, rate=0.025, decay=0.0):
        self.first, self.second, self.count, self.rate, self.decay = np.zeros(size), np.zeros(size), 0, rate, decay

    def step(self, values, slope):
        slope, self.count = slope + self.decay * values, self.count + 1
        self.first = 0.9 * self.first + 0.1 * slope
        self.second = 0.999 * self.second + 0.001 * slope**2
        first, second = self.first / (1 - 0.9**self.count), self.second / (1 - 0.999**self.count)
        return values - self.rate * first / (np.sqrt(second) + 1e-8)


def softmax(x):
    parts = np.exp(x - x.max())
    return parts / parts.sum()


def famo_in_numpy(losses, decay):
    """The authors' loop: weigh, step, evaluate the same batch again, step on the logits."""
    adam, logits = Adam(losses.shape[1], decay=decay), np.zeros(losses.shape[1])
    for before, after in zip(losses[:-1], losses[1:], strict=True):
        shares, fall = softmax(logits), np.log(before) - np.log(after)
        logits = adam.step(logits, shares * (fall - shares @ fall))
    return logits, softmax(logits) / losses[-1] / np.sum(softmax(logits) / losses[-1])


def falling(num_steps=100, num_tasks=6):
    """Return losses of six tasks, which fall at rates from 0 to 1 % a step, and more slowly in the end."""
    return np.exp(-np.linspace(0, 0.01, num_tasks) * np.sqrt(20 * np.arange(num_steps)[:, None])).astype(np.float32)


def test_famo_learns_as_fast_as_the_code_of_its_authors():
    losses = falling()
    state = last(run(mtl.famo(6), np.ones((100, 6, 2), np.float32), losses))
    logits, weights = famo_in_numpy(losses.astype(np.float64), 1e-3)
    np.testing.assert_allclose(state.memory.logits, logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(state.weights, weights, rtol=1e-3)
    assert np.ptp(state.memory.logits) > 0.4  # plain descent at this rate: .0003


def slopes_in_numpy(name, values, rows, losses, first):
    if name == "uncertainty":
        return 0.5 - np.exp(-values) * losses / 2
    if name == "imtl_l":
        return np.exp(values) * losses - 1
    lengths = np.linalg.norm(rows, axis=1)
    mean, rate = np.mean(values * lengths), losses / first / np.mean(losses / first)
    return np.sign(values * lengths - mean * rate**1.5) * lengths / mean


@pytest.mark.parametrize("name", ["gradnorm", "imtl_l", "uncertainty"])
def test_by_default_it_is_adam(name):
    rows, losses = steps()
    values, adam = np.full(4, START[name]), Adam(4)
    for step in range(NUM_STEPS):
        values = adam.step(values, slopes_in_numpy(name, values, rows[step], losses[step], losses[0]))
        values = values * 4 / values.sum() if name == "gradnorm" else values
    state = last(run(getattr(mtl, name)(4), rows, losses))
    np.testing.assert_allclose(learned_by(name, state.memory), values, rtol=1e-4, atol=1e-4)


OPTIMIZERS = {
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "a chain": optax.chain(optax.clip(1.0), optax.add_decayed_weights(1e-2), optax.amsgrad(0.1)),
    "injected": optax.inject_hyperparams(optax.rmsprop)(learning_rate=optax.cosine_decay_schedule(0.1, 50)),
    "every second step": optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
}


@pytest.mark.parametrize("chosen", OPTIMIZERS)
def test_any_optimiser_learns_under_scan_and_vmap(chosen):
    """And keeps the types of the state; a member of a population is as if it were alone."""
    rows, losses = steps()
    tx = mtl.uncertainty(4, optimizer=OPTIMIZERS[chosen])
    scales = jnp.array([1.0, 3.0])
    members = jax.jit(jax.vmap(lambda scale: run(tx, rows, scale * losses)))(scales)
    alone = run(tx, rows, 3 * losses)
    jax.tree.map(lambda many, one: np.testing.assert_allclose(many[1], one, rtol=1e-5, atol=1e-6), members, alone)
    assert np.ptp(alone.memory.values[-1]) > 1e-3


@pytest.mark.parametrize("name", LEARNED)
def test_a_task_that_was_away_resumes_with_its_own_moments_and_count(name):
    """Whatever its row and loss held, in the same program."""
    rows, losses = steps(num_steps=4)
    present = np.ones((4, 4), bool)
    present[2, 1] = False
    rows[2, 1], losses[2, 1] = np.nan, np.nan
    memory = run(getattr(mtl, name)(4), rows, losses, present).memory
    learned = learned_by(name, memory)
    for leaf in (learned, *jax.tree.leaves(memory.optimizer)):
        assert np.all(np.isfinite(leaf))
        np.testing.assert_array_equal(leaf[2, 1], leaf[1, 1])
        assert np.all(np.delete(leaf[2] != leaf[1], 1))
    counts = [leaf[-1] for leaf in jax.tree.leaves(memory.optimizer) if np.issubdtype(leaf.dtype, np.integer)]
    expected = [3, 1, 3, 3] if name == "famo" else [4, 3, 4, 4]  # it needs the loss of the step before as well
    np.testing.assert_array_equal(counts, [expected] * len(counts))


@pytest.mark.parametrize("name", LEARNED)
def test_a_loss_that_is_out_of_range_spoils_no_moment(name):
    """However large a loss, moments stay finite, and the task goes on learning."""
    weighting = getattr(mtl.weightings, name)()
    update, state = jax.jit(weighting.update), weighting.init(2)
    for loss in (1.0, 1e30, np.inf, np.nan, 0.0, -1.0, 1e30):
        _, state = update(jnp.eye(2), state, losses=jnp.array([loss, 1.0], jnp.float32))
        assert all(np.all(np.isfinite(leaf)) for leaf in (learned_by(name, state), *jax.tree.leaves(state.optimizer)))


@pytest.mark.parametrize("name", LEARNED)
@pytest.mark.parametrize(("wrong", "words"), [(optax.adam, "got adam"), (0.1, "got float")])
def test_what_is_no_optimiser_is_refused(name, wrong, words):
    with pytest.raises(ValueError, match=f"{name} expected optimizer to be an Optax transformation, {words}"):
        getattr(mtl, name)(2, optimizer=wrong)
