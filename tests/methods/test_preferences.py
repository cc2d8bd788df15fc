"""What a preference means for each method, in the equation that the method solves."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import draw
from scipy.optimize import nnls

import mtlgrad_jax as mtl
from mtlgrad_jax import weightings

PREFERENCE = np.array([0.1, 0.6, 0.3], np.float32)
WITH_PREFERENCE = ("mgda", "cagrad", "nash_mtl", "fairgrad", "conflict_free", "pcgrad")


def rows(seed=0, num_tasks=3):
    return draw("opposed", num_tasks, seed)


def gram_of(task_grads):
    return jnp.asarray(task_grads @ task_grads.T)


def weigh(name, gram, **options):
    extra = (jax.random.key(0),) if name == "pcgrad" else ()
    return np.asarray(getattr(weightings, name)(gram, *extra, **options), np.float64)


@pytest.mark.parametrize("name", WITH_PREFERENCE)
def test_an_even_preference_is_none_and_a_preference_moves_the_update(name):
    gram = gram_of(rows())
    plain = weigh(name, gram)
    np.testing.assert_allclose(weigh(name, gram, preference=np.full(3, 1 / 3, np.float32)), plain, rtol=1e-4)
    assert np.abs(weigh(name, gram, preference=PREFERENCE) - plain).max() > 0.02 * np.abs(plain).max()
    traced = jax.jit(lambda p: weightings_of(name)(gram, preference=p))(PREFERENCE)
    np.testing.assert_allclose(traced, weigh(name, gram, preference=PREFERENCE), rtol=1e-4)
    with pytest.raises(ValueError, match="preference"):
        weigh(name, gram, preference=np.array([0.5, 0.5, -0.1]))
    with pytest.raises(ValueError, match=r"preference of shape \(3,\)"):
        weigh(name, gram, preference=np.ones(2, np.float32))


def weightings_of(name):
    if name == "pcgrad":
        return lambda gram, **options: weightings.pcgrad(gram, jax.random.key(0), **options)
    return getattr(weightings, name)


@pytest.mark.parametrize("name", [name for name in WITH_PREFERENCE if name != "cagrad"])  # it looks at the worst-off
def test_a_preference_serves_its_task(name):
    """More of the first task in p, a larger share of the gain for the first task."""
    gram = gram_of(rows(1))
    lengths = np.sqrt(np.diag(gram))
    shares = []
    for first in (0.1, 0.4, 0.8):
        preference = np.array([first, (1 - first) / 2, (1 - first) / 2], np.float32)
        gains = np.asarray(gram, np.float64) @ weigh(name, gram, preference=preference) / lengths
        shares.append(gains[0] / np.abs(gains).sum())
    assert shares[0] < shares[1] < shares[2]


def test_mgda_shares_its_gains_in_proportion():
    for seed in range(5):
        task_grads = rows(seed).astype(np.float64)
        scaled = task_grads / (3 * PREFERENCE)[:, None]
        shares, _ = nnls(np.concatenate([scaled.T, np.ones((1, 3))]), np.eye(scaled.shape[1] + 1)[-1])
        expected = shares / shares.sum() @ scaled
        weights = weigh("mgda", gram_of(rows(seed)), preference=PREFERENCE)
        np.testing.assert_allclose(weights @ task_grads, expected, atol=1e-5 * np.abs(scaled).max())
        gains = task_grads @ (weights @ task_grads) / PREFERENCE
        np.testing.assert_allclose(gains[weights > 1e-6], gains.min(), rtol=1e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_fair_shares_solve_their_equation(alpha):
    gram = gram_of(rows())
    weights = weigh("fairgrad", gram, preference=PREFERENCE, alpha=alpha)
    gains = np.asarray(gram, np.float64) @ weights
    np.testing.assert_allclose(gains, (weights / (3 * PREFERENCE)) ** (-1 / alpha), rtol=1e-4)
    assert mtl.solvers.fairness_gap(gram, jnp.asarray(weights, jnp.float32), alpha=alpha, preference=PREFERENCE) < 1e-4
    assert mtl.solvers.fairness_gap(gram, jnp.asarray(weights, jnp.float32), alpha=alpha) > 0.1


@pytest.mark.parametrize("name", ["nash_mtl", "fairgrad"])
def test_without_bargaining_power_a_task_is_left_out(name):
    gram = gram_of(rows())
    weights = weigh(name, gram, preference=np.array([0.5, 0.5, 0.0], np.float32))
    two = np.asarray(getattr(weightings, name)(gram[:2, :2]), np.float64)
    assert weights[2] == 0
    np.testing.assert_allclose(weights[:2] / weights[0], two / two[0], rtol=1e-4)
    tx = getattr(mtl, name)(3, preference=jnp.array([0.5, 0.5, 0.0]))
    task_grads = jnp.asarray(rows())
    assert tx.update(task_grads, tx.init(task_grads[0]))[1].gap < 1e-4


def test_cagrad_stays_near_the_preferred_average():
    task_grads = rows().astype(np.float64)
    center = PREFERENCE @ task_grads
    update = weigh("cagrad", gram_of(rows()), c=0.5, preference=PREFERENCE) @ task_grads
    np.testing.assert_allclose(np.linalg.norm(update - center), 0.5 * np.linalg.norm(center), rtol=1e-4)
    for direction in np.random.default_rng(0).standard_normal((2000, len(center))):
        near = center + 0.5 * np.linalg.norm(center) * direction / np.linalg.norm(direction)
        assert np.min(task_grads @ near) <= np.min(task_grads @ update) + 1e-5
    tx = mtl.cagrad(3, preference=PREFERENCE)
    assert tx.update(jnp.asarray(rows()), tx.init(jnp.asarray(rows()[0])))[1].gap < 1e-4


def test_pcgrad_weighs_what_the_projections_left():
    gram = gram_of(rows(num_tasks=2))
    parts = [weigh("pcgrad", gram, preference=row) for row in np.eye(2, dtype=np.float32)]
    np.testing.assert_allclose(np.mean(parts, axis=0), weigh("pcgrad", gram), rtol=1e-5)
    projected = parts[0] @ rows(num_tasks=2)
    assert abs(projected @ rows(num_tasks=2)[1]) < 1e-3 and projected @ rows(num_tasks=2)[0] > 0


LENGTHS = {
    "minimum": np.min,
    "maximum": np.max,
    "arithmetic": np.mean,
    "harmonic": lambda lengths: len(lengths) / np.sum(1 / lengths),
    "geometric": lambda lengths: np.prod(lengths) ** (1 / len(lengths)),
    1: lambda lengths: lengths[1],
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("preference", [None, PREFERENCE])
def test_conflict_free_has_the_cosines_and_the_length_of_its_published_code(length, preference):
    task_grads = rows().astype(np.float64)
    lengths = np.linalg.norm(task_grads, axis=1)
    units = task_grads / lengths[:, None]
    direction = np.linalg.pinv(units) @ (np.ones(3) if preference is None else preference)
    direction /= np.linalg.norm(direction)
    expected = np.sum(units @ direction) * LENGTHS[length](lengths) * direction
    weights = weigh("conflict_free", gram_of(rows()), length=length, preference=preference)
    np.testing.assert_allclose(weights @ task_grads, expected, rtol=1e-4, atol=1e-5)


def test_an_unknown_length_is_refused():
    for length in ("median", 3, -1):
        with pytest.raises(ValueError, match="expected length to be one of"):
            weightings.conflict_free(jnp.eye(3), length=length)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("exponent", [-60, 0, 60])
def test_normalized_divides_by_a_power_of_the_length(power, exponent):
    """Through a transformation, where G is that of gradients in another unit; Nash-MTL has units of its own."""
    task_grads = rows() * np.float32(2.0) ** exponent
    tx = mtl.aggregate(weightings.normalized(partial(weightings.nash_mtl, max_norm=None), power=power), 3)
    _, state = tx.update(jnp.asarray(task_grads), tx.init(jnp.asarray(task_grads[0])))
    lengths = np.linalg.norm(task_grads.astype(np.float64), axis=1)
    scaled = task_grads / lengths[:, None] ** power
    weights = np.asarray(state.weights, np.float64)
    shares = weights * lengths**power
    np.testing.assert_allclose(scaled @ (shares @ scaled), 1 / shares, rtol=1e-4)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e12])
@pytest.mark.parametrize("name", ["mgda", "upgrad", "nash_mtl", "conflict_free", "imtl_g", "pcgrad"])
def test_on_log_losses_is_the_method_on_gradients_of_logarithms(name, size):
    losses = np.array([1.0, 20.0, 0.3], np.float32)
    weighting = weightings.keyed(weightings.pcgrad, 0) if name == "pcgrad" else getattr(weightings, name)
    tx = mtl.aggregate(weightings.on_log_losses(weighting), 3)
    plain = mtl.aggregate(weighting, 3)
    task_grads = jnp.asarray(rows() * np.float32(size))
    update, _ = tx.update(task_grads, tx.init(task_grads[0]), losses=jnp.asarray(losses * np.float32(size)))
    expected, _ = plain.update(jnp.asarray(rows() / losses[:, None]), plain.init(task_grads[0]))
    np.testing.assert_allclose(update, expected, rtol=2e-4, atol=1e-5 * np.abs(expected).max())


def test_on_log_losses_hands_on_logarithms_and_leaves_out_what_has_none():
    seen = {}

    def spy(gram, *, losses):
        seen.update(losses=losses, gram=gram)
        return jnp.ones_like(losses)

    weights = weightings.on_log_losses(spy)(jnp.eye(3), losses=jnp.array([2.0, -1.0, 4.0]))
    np.testing.assert_allclose(weights, [0.5, 0, 0.25])
    np.testing.assert_allclose(seen["losses"], np.log([2.0, 1.0, 4.0]), rtol=1e-6)
    assert seen["gram"][1, 1] == 0
    with pytest.raises(ValueError, match=r"expected losses of shape \(3,\)"):
        weightings.on_log_losses(spy)(jnp.eye(3), losses=jnp.ones(2))
