"""A population is its members, trained one by one; members on different devices do not talk to each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import mtlgrad_jax as mtl
from mtlgrad_jax import fronts

pytestmark = pytest.mark.standard_promotion  # Optax's schedules and moments
NUM_STEPS = 300


def exponential(x, shift=0.0):
    """A concave front: 1 − exp(−‖x ∓ 1/√n‖²)."""
    center = jnp.full_like(x, x.size**-0.5)
    return 1 - jnp.exp(-jnp.stack([jnp.sum((x - center - shift) ** 2), jnp.sum((x + center - shift) ** 2)]))


def three(x):
    """A curved front of three losses."""
    corners = jnp.eye(3, dtype=x.dtype)
    return jnp.sum((x[None, :] - corners) ** 2, axis=1)


def optimizer():
    return optax.adam(optax.cosine_decay_schedule(0.03, NUM_STEPS))


def on_ray(ray):
    return optax.chain(mtl.epo(2, ray=ray), optimizer())


def given(_):
    return optax.chain(mtl.aggregate(lambda gram, *, weights: weights), optimizer())


@partial(jax.jit, static_argnames=("step", "num_steps"))
def train(members, *, step, num_steps=NUM_STEPS):
    return jax.lax.scan(lambda members, _: step(members), members, length=num_steps)


def start(num_members, num_params=6, seed=0):
    return 0.2 * jax.random.normal(jax.random.key(seed), (num_members, num_params))


def test_members_are_trained_as_if_they_were_alone():
    population = fronts.population(exponential, on_ray)
    rays = fronts.rays(2, 4)
    together, losses = train(population.init(start(4), rays), step=population.step, num_steps=30)
    assert losses.shape == (30, 4, 2)
    for number, (params, ray) in enumerate(zip(start(4), rays, strict=True)):
        tx = on_ray(ray)

        @jax.jit
        def step(params, state, tx=tx):
            values, task_grads = mtl.task_value_and_grad(exponential)(params)
            updates, state = tx.update(task_grads, state, params, losses=values)
            return optax.apply_updates(params, updates), state

        state = tx.init(params)
        for _ in range(30):
            params, state = step(params, state)
        np.testing.assert_allclose(together.params[number], params, atol=1e-5)
    np.testing.assert_allclose(together.state[0].weights.shape, (4, 2))  # every member has its record


def test_every_member_sees_the_batch():
    population = fronts.population(exponential, on_ray)
    members = population.init(start(2), fronts.rays(2, 2))
    _, still = jax.jit(population.step)(members)
    _, moved = jax.jit(population.step)(members, 0.5)
    assert np.all(np.abs(moved - still) > 1e-3)


def test_hypervolume_spreads_a_population_without_rays():
    reference = jnp.ones(2)
    weigh = lambda losses, grams: fronts.hypervolume_weights(losses, reference)
    population = fronts.population(exponential, given, weights=weigh)
    members = population.init(start(8), jnp.zeros((8, 2)))
    _, losses = train(members, step=population.step)
    assert fronts.hypervolume(losses[-1], reference) > 0.284  # eight exact rays: 0.2827, the best eight points: 0.286
    assert np.all(fronts.nondominated(losses[-1]))


def test_repulsion_spreads_a_population_and_mgda_does_not():
    spread = {}
    for strength in (0.0, 1.0):
        weigh = partial(fronts.repelling_weights, strength=strength)
        population = fronts.population(exponential, given, weights=weigh)
        members = population.init(start(8) / 10, jnp.zeros((8, 2)))
        _, losses = train(members, step=population.step)
        spread[strength] = float(fronts.hypervolume(losses[-1], jnp.ones(2)))
    assert spread[1.0] > spread[0.0] + 0.05


def test_three_losses_end_on_their_rays():
    rays = fronts.rays(3, 6, margin=0.25)  # a front of which 1 : 3 is the end
    population = fronts.population(three, lambda ray: optax.chain(mtl.epo(ray=ray), optimizer()))
    _, losses = train(population.init(start(6, 3), rays), step=population.step)
    assert np.max(fronts.angles(losses[-1], rays)) < 0.2


COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")


@pytest.mark.parametrize(("losses_fn", "num_tasks"), [(exponential, 2), (three, 3)])
def test_members_on_different_devices_do_not_talk_to_each_other(losses_fn, num_tasks):
    population = fronts.population(losses_fn, lambda ray: optax.chain(mtl.epo(ray=ray, axis_name=()), optimizer()))
    members = population.init(start(16, 3), fronts.rays(num_tasks, 16))
    mesh = jax.make_mesh((8,), ("members",))
    split = PartitionSpec("members")
    step = jax.jit(jax.shard_map(population.step, mesh=mesh, in_specs=(split,), out_specs=(split, split)))
    placed = jax.device_put(members, jax.sharding.NamedSharding(mesh, split))
    program = step.lower(placed).compile().as_text()
    assert not [name for name in COLLECTIVES if name in program]
    expected, _ = jax.jit(population.step)(members)
    actual, losses = step(placed)
    assert len(losses.sharding.device_set) == 8
    np.testing.assert_allclose(actual.params, expected.params, atol=1e-6)
