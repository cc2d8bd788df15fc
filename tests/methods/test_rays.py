"""Methods on a ray against the scalarisations that they descend, SciPy's programs, and a front in closed form."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import draw
from scipy.optimize import nnls

import mtlgrad_jax as mtl
from mtlgrad_jax import weightings

EYE = jnp.eye(3)
LOSSES = np.array([0.4, 2.0, 1.1], np.float32)
RAY = np.array([0.2, 0.3, 0.5], np.float32)


def assert_descends(weigh, scalar, losses=LOSSES):
    """The weights are the gradient of a scalar function of the losses, by differences in float64."""
    steps = 1e-6 * np.eye(len(losses))
    losses = losses.astype(np.float64)
    slope = np.array([(scalar(losses + step) - scalar(losses - step)) / 2e-6 for step in steps])
    np.testing.assert_allclose(weigh(EYE, losses=jnp.asarray(losses, jnp.float32)), slope, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("theta", [0.5, 5.0])
def test_pbi_descends_its_scalarisation(theta):
    unit = RAY.astype(np.float64) / np.linalg.norm(RAY)

    def scalar(losses):
        excess = losses - 0.1
        along = excess @ unit
        return along + theta * np.linalg.norm(excess - along * unit)

    assert_descends(partial(weightings.pbi, ray=RAY, theta=theta, ideal=0.1), scalar)


def test_pbi_on_its_ray_has_no_side():
    for size in (1e-20, 1.0, 1e20):
        losses = jnp.asarray(RAY * np.float32(size))
        unit = RAY / np.linalg.norm(RAY)
        np.testing.assert_allclose(weightings.pbi(EYE, losses=losses, ray=RAY), unit, atol=5e-3)


@pytest.mark.parametrize("strength", [0.5, 5.0])
def test_cosmos_descends_its_scalarisation(strength):
    def scalar(losses):
        return RAY @ losses - strength * (RAY @ losses) / np.linalg.norm(RAY) / np.linalg.norm(losses)

    assert_descends(partial(weightings.cosmos, ray=RAY, strength=strength), scalar)


def test_the_ray_of_stch_is_an_inverse_preference():
    inverse = 1 / RAY / np.sum(1 / RAY)
    actual = weightings.stch(EYE, losses=LOSSES, mu=0.01, ray=7 * RAY)
    np.testing.assert_allclose(actual, weightings.stch(EYE, losses=LOSSES, mu=0.01, preference=inverse), rtol=1e-4)
    with pytest.raises(ValueError, match="a preference or a ray, got both"):
        weightings.stch(EYE, losses=LOSSES, ray=RAY, preference=RAY)


def test_stch_on_log_losses_is_that_of_its_authors():
    mu, nadir = 0.7, np.array([1.0, 3.0, 0.5])

    def scalar(losses):
        return 3 * mu * np.log(np.sum(np.exp(np.log(losses / nadir) / mu)))

    stch = partial(weightings.stch, mu=mu / 3, ideal=jnp.asarray(np.log(nadir), jnp.float32))
    assert_descends(lambda gram, losses: 9 * weightings.on_log_losses(stch)(gram, losses=losses), scalar)


def programs(task_grads, losses, ray):
    """EPO's two parts in float64, on J itself: SciPy finds the shortest vector, and projects."""
    num_tasks = len(losses)
    rows = task_grads.astype(np.float64) / (num_tasks * ray)[:, None]
    share = losses / ray / np.sum(losses / ray)
    pull = np.log(num_tasks * share) - share @ np.log(num_tasks * share)
    size = np.abs(rows).max()
    shares, _ = nnls(np.concatenate([rows.T / size, np.ones((1, num_tasks))]), np.eye(rows.shape[1] + 1)[-1])
    shortest = shares / shares.sum() @ rows
    wanted = pull @ rows
    # The nearest d with ⟨gⱼ,d⟩ ≥ bⱼ is wanted + Jᵀx, x ≥ 0: a least-distance program (Lawson & Hanson, chapter 23).
    allowed = np.where(pull > 0, 0, np.minimum(rows @ wanted, 0)) - rows @ wanted
    stacked = np.concatenate([rows.T / size, allowed[None] / size])
    target = np.eye(rows.shape[1] + 1)[-1]
    x, _ = nnls(stacked, target)
    residual = stacked @ x - target
    moved = -residual[:-1] / residual[-1]
    return shortest, wanted + moved, pull


@pytest.mark.parametrize("jacobian", ["gaussian", "opposed", "correlated"])
@pytest.mark.parametrize("num_tasks", [2, 3, 6])
def test_epo_solves_its_programs(jacobian, num_tasks):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        task_grads = draw(jacobian, num_tasks, seed)
        losses, ray = rng.uniform(0.1, 3, num_tasks), rng.dirichlet(np.full(num_tasks, 3.0))
        gram = jnp.asarray(task_grads @ task_grads.T)
        weights = weightings.epo(gram, losses=jnp.asarray(losses, jnp.float32), ray=jnp.asarray(ray, jnp.float32))
        update = np.asarray(weights, np.float64) @ task_grads
        shortest, balance, pull = programs(task_grads, losses, ray)
        expected = shortest + balance / num_tasks
        np.testing.assert_allclose(update, expected, atol=3e-5 * np.abs(task_grads / ray[:, None]).max())
        gains = task_grads @ update
        assert np.all(gains[pull > 0] >= -1e-4 * np.abs(gains).max())


def test_epo_moves_along_the_front_towards_the_ray():
    """Gradients are opposed there: no step improves both, and a loss far above its ray falls at the other's cost."""
    gram = jnp.array([[1.0, -2.0], [-2.0, 4.0]])
    for ray, sign in (((0.5, 0.5), 1), ((0.8, 0.2), -1)):
        weights = weightings.epo(gram, losses=jnp.array([2.0, 1.0]), ray=jnp.array(ray))
        assert sign * (gram @ weights)[0] > 0.1
    np.testing.assert_allclose(
        gram @ weightings.epo(gram, losses=jnp.array([2.0, 1.0]), ray=jnp.array([2.0, 1.0])), 0, atol=1e-5
    )


def test_epo_has_an_answer_where_losses_have_no_share():
    gram = jnp.asarray(np.cov(np.random.default_rng(0).standard_normal((3, 9))), jnp.float32)
    mgda = weightings.mgda(gram)
    for losses in ((0.0, 0.0, 0.0), (-1.0, -2.0, -3.0), (1.0, 1.0, 1.0)):
        np.testing.assert_allclose(weightings.epo(gram, losses=jnp.array(losses)), mgda, rtol=1e-5)
    for losses in ((np.nan, 1.0, np.inf), (1e-38, 1e38, 1.0), (0.0, 0.0, 1e-30)):
        assert np.all(np.isfinite(weightings.epo(gram, losses=jnp.array(losses))))


def exponential(x):
    """A concave front, from libmoon: 1 − exp(−‖x ∓ 1/√n‖²)."""
    center = jnp.full_like(x, x.size**-0.5)
    return 1 - jnp.exp(-jnp.stack([jnp.sum((x - center) ** 2), jnp.sum((x + center) ** 2)]))


@pytest.mark.standard_promotion
@pytest.mark.parametrize(
    ("method", "angle"), [(mtl.epo, 0.05), (mtl.pbi, 0.1), (partial(mtl.stch, mu=1e-4), 0.3), (mtl.cosmos, 15.0)]
)
def test_a_population_on_rays_ends_on_its_rays(method, angle):
    rays = mtl.fronts.rays(2, 4, margin=0.1)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, 600))
    population = mtl.fronts.population(exponential, lambda ray: optax.chain(method(ray=ray), optimizer))
    members = population.init(0.1 * jax.random.normal(jax.random.key(0), (4, 5)), rays)
    _, losses = jax.jit(lambda members: jax.lax.scan(lambda m, _: population.step(m), members, length=600))(members)
    assert np.max(mtl.fronts.angles(losses[-1], rays)) < angle
    assert np.all(mtl.fronts.nondominated(losses[-1]))
    share = jnp.linspace(0, 2, 1001)
    front = 1 - jnp.exp(-jnp.stack([share**2, (2 - share) ** 2], axis=1))
    assert mtl.fronts.generational_distance(losses[-1], front) < 2e-3


@pytest.mark.parametrize("name", ["pbi", "cosmos", "epo", "stch"])
def test_a_ray_is_positive_and_may_be_traced(name):
    weigh = partial(getattr(weightings, name), jnp.eye(2), losses=jnp.array([1.0, 2.0]))
    rays = jnp.array([[0.1, 0.9], [3.0, 1.0]])
    stacked = jax.jit(jax.vmap(lambda ray: weigh(ray=ray)))(rays)
    for ray, weights in zip(rays, stacked, strict=True):
        np.testing.assert_allclose(weights, weigh(ray=ray), rtol=1e-5)
    with pytest.raises(ValueError, match="ray to be positive"):
        weigh(ray=np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"ray of shape \(2,\)"):
        weigh(ray=np.ones(3))
    assert np.all(np.isfinite(jax.jit(lambda ray: weigh(ray=ray))(jnp.array([0.0, 1.0]))))
