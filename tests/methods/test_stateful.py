"""Every method with memory against a plain numpy transcription of its paper, for several steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import nnls

from mtlgrad_jax import weightings
from mtlgrad_jax.ground.leaves import choose
from mtlgrad_jax.methods.pcgrad import random_orders
from mtlgrad_jax.solvers import min_norm
from mtlgrad_jax.transforms.aggregate import aggregate

NUM_TASKS, NUM_STEPS = 4, 6


def draw_steps(seed=0):
    rng = np.random.default_rng(seed)
    for step in range(NUM_STEPS):
        task_grads = rng.standard_normal((NUM_TASKS, 7)) * [[1.0], [0.3], [2.0], [1.0]]
        losses = rng.uniform(0.5, 2.0, NUM_TASKS) / (1 + step)
        after = losses * rng.uniform(0.7, 1.0, NUM_TASKS)
        yield task_grads, losses, after


def check(weighting, transcription, *, extras=lambda task_grads, losses, previous: {"losses": losses}):
    """Run both; the transcription is a generator that is sent (task_grads, losses, previous) and yields weights."""
    update = jax.jit(weighting.update)
    state = weighting.init(NUM_TASKS)
    reference = transcription()
    next(reference)
    previous = np.ones(NUM_TASKS)
    for task_grads, losses, after in draw_steps():
        gram = jnp.asarray(task_grads @ task_grads.T, jnp.float32)
        chosen = {name: jnp.asarray(x, jnp.float32) for name, x in extras(task_grads, losses, previous).items()}
        weights, state = update(gram, state, **chosen)
        expected = reference.send((task_grads, losses, previous))
        np.testing.assert_allclose(weights, expected, rtol=3e-5, atol=3e-6)
        previous = after


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def project_simplex(v):
    u = np.sort(v)[::-1]
    levels = (np.cumsum(u) - 1) / np.arange(1, len(v) + 1)
    return np.maximum(v - levels[np.nonzero(u > levels)[0][-1]], 0)


def test_gradvac():
    def transcription():
        targets, data = np.zeros((NUM_TASKS, NUM_TASKS)), jax.random.key(3)
        inputs = yield
        while True:
            task_grads = inputs[0]
            drawn, data = jax.random.split(data)
            orders = np.asarray(random_orders(drawn, NUM_TASKS))
            total = np.zeros(task_grads.shape[1])
            for i in range(NUM_TASKS):
                bent = task_grads[i].copy()
                for j in orders[i]:
                    if j == i:
                        continue
                    other, target = task_grads[j], targets[i, j]
                    cosine = bent @ other / (np.linalg.norm(bent) * np.linalg.norm(other))
                    if cosine < target:
                        goal_sine = np.sqrt(1 - target**2)
                        bent = bent + other * (
                            np.linalg.norm(bent)
                            * (target * np.sqrt(1 - cosine**2) - cosine * goal_sine)
                            / (np.linalg.norm(other) * goal_sine)
                        )
                    targets[i, j] = 0.7 * target + 0.3 * cosine
                total += bent
            inputs = yield np.linalg.lstsq(task_grads.T, total, rcond=None)[0]

    check(weightings.gradvac(beta=0.3, key=3), transcription, extras=lambda *_: {})


def test_dwa():
    def transcription():
        history = []
        inputs = yield
        while True:
            ratio = history[-1] / history[-2] if len(history) >= 2 else np.ones(NUM_TASKS)
            history.append(inputs[1])
            inputs = yield NUM_TASKS * softmax(ratio / 2)

    check(weightings.dwa(), transcription)


def test_dwa_averages_over_a_period():
    def transcription():
        seen = []
        inputs = yield
        while True:
            periods = [np.mean(seen[k : k + 2], axis=0) for k in range(0, len(seen) - 1, 2)]
            ratio = periods[-1] / periods[-2] if len(periods) >= 2 else np.ones(NUM_TASKS)
            seen.append(inputs[1])
            inputs = yield NUM_TASKS * softmax(ratio / 2)

    check(weightings.dwa(steps_per_period=2), transcription)


def test_uncertainty():
    def transcription():
        s = np.zeros(NUM_TASKS)
        inputs = yield
        while True:
            weights = np.exp(-s) / 2
            s = s - 0.2 * (0.5 - np.exp(-s) * inputs[1] / 2)
            inputs = yield weights

    check(weightings.uncertainty(optimizer=optax.sgd(0.2)), transcription)


def test_imtl_l():
    def transcription():
        s = np.zeros(NUM_TASKS)
        inputs = yield
        while True:
            weights = np.exp(s)
            s = s - 0.2 * (np.exp(s) * inputs[1] - 1)
            inputs = yield weights

    check(weightings.imtl_l(optimizer=optax.sgd(0.2)), transcription)


def test_famo():
    def transcription():
        logits, before = np.zeros(NUM_TASKS), None
        inputs = yield
        while True:
            _, losses, previous = inputs
            if before is not None:
                z = softmax(logits)
                fall = np.log(before) - np.log(previous)
                logits = logits - 0.5 * ((np.diag(z) - np.outer(z, z)) @ fall + 1e-2 * logits)
            before = losses
            weights = softmax(logits) / losses
            inputs = yield weights / weights.sum()

    check(
        weightings.famo(optimizer=optax.chain(optax.add_decayed_weights(1e-2), optax.sgd(0.5))),
        transcription,
        extras=lambda _, losses, previous: {"losses": losses, "previous_batch_losses": previous},
    )


def test_gradnorm():
    def transcription():
        w, initial = np.ones(NUM_TASKS), None
        inputs = yield
        while True:
            task_grads, losses, _ = inputs
            initial = losses if initial is None else initial
            lengths = np.linalg.norm(task_grads, axis=1)
            mean = np.mean(w * lengths)
            rate = losses / initial / np.mean(losses / initial)
            returned = w
            w = w - 0.05 * np.sign(w * lengths - mean * rate**1.5) * lengths / mean
            w = w * NUM_TASKS / w.sum()
            inputs = yield returned

    check(weightings.gradnorm(optimizer=optax.sgd(0.05)), transcription)


def cross(task_grads, losses, previous):
    del losses, previous
    return {"cross_gram": task_grads @ np.roll(task_grads, 1, axis=1).T + 3 * np.eye(NUM_TASKS)}


def test_modo():
    def transcription():
        w = np.full(NUM_TASKS, 1 / NUM_TASKS)
        inputs = yield
        while True:
            w = project_simplex(w - 0.02 * (cross(*inputs)["cross_gram"] @ w + 0.1 * w))
            inputs = yield w

    check(weightings.modo(gamma=0.02), transcription, extras=cross)


def test_sdmgrad():
    def transcription():
        w = np.full(NUM_TASKS, 1 / NUM_TASKS)
        inputs = yield
        while True:
            matrix = cross(*inputs)["cross_gram"]
            matrix = matrix / np.mean(np.sqrt(np.maximum(np.diag(matrix), 0))) ** 2
            velocity = 0
            for _ in range(5):
                velocity = 0.5 * velocity + matrix @ (w + 0.3 / NUM_TASKS)
                w = project_simplex(w - 0.1 * velocity)
            inputs = yield (w + 0.3 / NUM_TASKS) / 1.3

    check(weightings.sdmgrad(num_steps=5, learning_rate=0.1), transcription, extras=cross)


def test_smoothed_inverse_lengths():
    def transcription():
        w = None
        inputs = yield
        while True:
            fresh = 1 / np.linalg.norm(inputs[0], axis=1)
            w = fresh if w is None else 0.9 * w + 0.1 * fresh
            inputs = yield w

    check(weightings.smoothed(weightings.inverse_norm), transcription, extras=lambda *_: {})


def test_every_k_calls_a_method_with_memory_only_then():
    def transcription():
        s, step = np.zeros(NUM_TASKS), 0
        inputs = yield
        while True:
            if step % 3 == 0:
                weights = np.exp(s)
                s = s - 0.2 * (np.exp(s) * inputs[1] - 1)
            step += 1
            inputs = yield weights

    weighting = weightings.every_k(weightings.imtl_l(optimizer=optax.sgd(0.2)), 3)

    def update(gram, state, **extras):
        """Ask whether a step can rest, as `step.take` does."""
        rest = weighting.rest(state)
        return choose(rest.is_due, weighting.update(gram, state, **extras), (rest.weights, rest.state))

    check(weighting._replace(update=update), transcription)


def test_weights_of_losses_only():
    losses = np.array([0.5, 2.0, 1.0])
    gram, given = jnp.eye(3), jnp.asarray(losses, jnp.float32)
    np.testing.assert_allclose(
        weightings.geometric(gram, losses=given), losses.prod() ** (1 / 3) / (3 * losses), rtol=1e-6
    )
    np.testing.assert_allclose(weightings.si(gram, losses=given), 1 / losses, rtol=1e-6)
    p, ideal = np.array([0.2, 0.5, 0.3]), np.array([0.1, 0.2, 0.0])
    actual = weightings.stch(gram, losses=given, mu=0.3, preference=p, ideal=ideal)
    np.testing.assert_allclose(actual, p * softmax(p * (losses - ideal) / 0.3), rtol=1e-5)


NO_LOGARITHM = {
    "geometric": lambda losses: weightings.geometric(jnp.eye(3), losses=losses),
    "si": lambda losses: weightings.si(jnp.eye(3), losses=losses),
    "loss_balanced": lambda losses: weightings.loss_balanced(jnp.eye(3), losses=losses),
    "famo": lambda losses: (f := weightings.famo()).update(jnp.eye(3), f.init(3), losses=losses)[0],
}


@pytest.mark.parametrize("name", NO_LOGARITHM)
@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e-45])
def test_a_loss_without_logarithm_takes_its_task_out(name, bad):
    weights = jax.jit(NO_LOGARITHM[name])(jnp.array([1.0, bad, 2.0], jnp.float32))
    assert weights[1] == 0 and weights[0] >= weights[2] > 0
    assert np.all(jax.jit(NO_LOGARITHM[name])(jnp.full(3, bad, jnp.float32)) == 0)


STATEFUL = {
    "uncertainty": weightings.uncertainty(optimizer=optax.sgd(1.0)),
    "imtl_l": weightings.imtl_l(optimizer=optax.sgd(1.0)),
    "dwa": weightings.dwa(),
    "famo": weightings.famo(),
    "gradnorm": weightings.gradnorm(optimizer=optax.sgd(1.0)),
    "relobralo": weightings.relobralo(rho=0.5),
    "self_adaptive": weightings.self_adaptive(),
    "softadapt": weightings.softadapt(variant="loss_weighted"),
}


@pytest.mark.parametrize("name", STATEFUL)
def test_memory_stays_finite_whatever_the_losses(name):
    weighting, update = STATEFUL[name], jax.jit(STATEFUL[name].update)
    for first in (0.0, -1.0, 1e-30, 1e30, np.nan, np.inf):
        state = weighting.init(3)
        for step in range(60):
            losses = jnp.array([first, 1.0, 1e15 if step % 2 else 1e-15], jnp.float32)
            weights, state = update(jnp.eye(3), state, losses=losses)
            assert np.all(np.isfinite(weights)) and np.all(weights >= 0), (first, step, weights)


def test_a_cross_gram_matrix_that_is_not_finite_changes_nothing():
    for weighting in (weightings.modo(rho=0.0), weightings.sdmgrad()):
        state = weighting.init(2)
        _, after = jax.jit(weighting.update)(jnp.eye(2), state, cross_gram=jnp.array([[1.0, jnp.nan], [0.0, 9.0]]))
        np.testing.assert_array_equal(after.weights, state.weights)


def test_krum_prefers_the_crowd():
    rng = np.random.default_rng(0)
    task_grads = np.concatenate([1 + 0.1 * rng.standard_normal((5, 9)), 50 * rng.standard_normal((2, 9))])
    weights = weightings.krum(jnp.asarray(task_grads @ task_grads.T, jnp.float32), num_byzantine=2, num_selected=3)
    squared = ((task_grads[:, None] - task_grads[None]) ** 2).sum(-1)
    scores = np.sort(squared, axis=1)[:, 1:4].sum(1)
    assert set(np.nonzero(np.asarray(weights))[0]) == set(np.argsort(scores)[:3])
    np.testing.assert_allclose(weights.sum(), 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: weightings.krum(jnp.eye(4), num_byzantine=2), "at least num_byzantine"),
        (lambda: weightings.krum(jnp.eye(2), num_selected=3), "num_selected from 1"),
        (lambda: weightings.si(jnp.eye(2)), "got none; pass losses=losses"),
        (lambda: weightings.si(jnp.eye(2), losses=jnp.ones(3)), "one per task"),
        (lambda: weightings.gradvac(beta=2.0), "beta between 0 and 1"),
        (lambda: weightings.keyed(weightings.pcgrad, key=0.5), "int seed"),
        (lambda: weightings.every_k(weightings.mgda, 0), "at least one step"),
        (lambda: weightings.modo().update(jnp.eye(2), weightings.modo().init(2)), "second_task_grads"),
    ],
)
def test_misuse_is_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("absent", [None, 1])
def test_sdmgrad_solved_exactly_is_the_shortest_combination_of_shifted_rows(absent):
    """By SciPy's NNLS on the rows; an absent task is as if there were fewer."""
    rows = np.random.default_rng(0).standard_normal((4, 6))
    present = np.arange(4) != absent
    shifted = rows[present] + 0.3 * rows[present].mean(0)
    share = nnls(np.vstack([shifted.T, np.ones(present.sum())]), np.append(np.zeros(6), 1.0))[0]
    expected = np.zeros(4)
    expected[present] = (share / share.sum() + 0.3 / present.sum()) / 1.3
    gram = np.where(present[:, None] & present, rows @ rows.T, np.nan)
    weighting = weightings.sdmgrad(solver=min_norm)
    weights, state = weighting.update(
        jnp.asarray(gram, jnp.float32), weighting.init(4), present=None if absent is None else jnp.asarray(present)
    )
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    assert state == ()


def test_relobralo():
    """The authors' loss class, with the coins that the state's key draws."""
    options = {"alpha": 0.8, "temperature": 0.5, "rho": 0.4}

    def balance(losses, before):
        return NUM_TASKS * softmax(losses / (0.5 * before))

    def transcription():
        seen, w, key = [], np.ones(NUM_TASKS), jax.random.key(5)
        inputs = yield
        while True:
            losses = inputs[1]
            drawn, key = jax.random.split(key)
            if len(seen) >= 2:
                history = w if jax.random.bernoulli(drawn, 0.4) else balance(losses, seen[0])
                w = 0.8 * history + 0.2 * balance(losses, seen[-1])
            elif seen:
                w = balance(losses, seen[-1])
            seen.append(losses)
            inputs = yield w

    check(weightings.relobralo(key=5, **options), transcription)


@pytest.mark.parametrize("variant", ["plain", "normalized", "loss_weighted"])
def test_softadapt(variant):
    def transcription():
        before = None
        inputs = yield
        while True:
            change = np.zeros(NUM_TASKS) if before is None else inputs[1] - before
            if variant == "normalized" and before is not None:
                change = change / np.abs(change).sum()
            before = inputs[1]
            parts = np.exp(3 * change) * (before if variant == "loss_weighted" else 1)
            inputs = yield parts / parts.sum()

    check(weightings.softadapt(beta=3.0, variant=variant), transcription)


def test_softadapt_every_few_steps_compares_losses_that_many_steps_apart():
    tx = aggregate(weightings.every_k(weightings.softadapt(beta=1.0), 2), 2)
    state = tx.init(jnp.zeros(2))
    for losses in ([4.0, 4.0], [9.0, 0.0], [3.0, 5.0]):
        _, state = tx.update(jnp.eye(2), state, losses=jnp.array(losses))
    np.testing.assert_allclose(state.weights, softmax(np.array([-1.0, 1.0])), rtol=1e-5)


def test_self_adaptive():
    def transcription():
        values = np.ones(NUM_TASKS)
        inputs = yield
        while True:
            weights = NUM_TASKS * values**2 / np.sum(values**2)
            values = values + 0.2 * 2 * values * inputs[1]
            inputs = yield weights

    check(weightings.self_adaptive(optimizer=optax.sgd(0.2)), transcription)
