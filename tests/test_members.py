"""Members of a population draw each by itself, and tasks have moments of their own: both by composition."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import PLAIN

import mtlgrad_jax as mtl

RANDOM = [case.name for case in PLAIN if "K" in case.claims.needs]
ROWS = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5)), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 6)
LOSSES = jnp.arange(1.0, 5.0)


def test_the_catalogue_knows_who_draws():
    assert {"pcgrad", "random_weights", "graddrop"} <= set(RANDOM)


@pytest.mark.parametrize("name", RANDOM)
def test_a_transformation_made_from_a_members_key_draws_by_itself(name):
    """A key or an int seed, traced; each draws what it would alone. One made outside of `vmap` gives all one key."""
    make = lambda key: getattr(mtl, name)(4, key=key)

    @jax.jit
    def members(keys):
        states = jax.vmap(lambda key: make(key).init(ROWS[0]))(keys)
        first, states = jax.vmap(lambda key, state: make(key).update(ROWS, state, losses=LOSSES))(keys, states)
        losses = LOSSES[::-1]
        return first, jax.vmap(lambda key, state: make(key).update(ROWS, state, losses=losses))(keys, states)[0]

    for keys in (KEYS, jnp.arange(6)):
        state = jax.tree.leaves(jax.vmap(lambda key: make(key).init(ROWS[0]).memory)(keys))
        drawn = [leaf for leaf in state if leaf.dtype == jnp.uint32]
        assert drawn and all(len(np.unique(leaf, axis=0)) == 6 for leaf in drawn)
    first, second = members(KEYS)
    if (
        "S" not in mtl.methods.claims()[name].needs
    ):  # else what is drawn matters only once there is something to remember
        assert len(np.unique(np.round(first, 5), axis=0)) > 1 and np.any(first != second)
    alone, _ = jax.jit(make(KEYS[2]).update)(ROWS, make(KEYS[2]).init(ROWS[0]), losses=LOSSES)
    np.testing.assert_allclose(first[2], alone, rtol=1e-5, atol=1e-6)


def test_a_population_of_keys():
    losses_fn = lambda params: jnp.sum((params[None, :] - ROWS) ** 2, axis=1)
    make = lambda key: optax.chain(mtl.random_weights(4, key=key), optax.sgd(0.1))
    population = mtl.fronts.population(losses_fn, make)
    members, _ = jax.jit(population.step)(population.init(jnp.zeros((6, 5)), KEYS))
    assert len(np.unique(members.params, axis=0)) == 6


@pytest.mark.standard_promotion
def test_moments_of_each_task_are_those_of_an_adam_of_its_own():
    """AdaTask: Adam is entry by entry, so it takes the stack for its parameters, and the aggregation what it makes."""
    adam, params = optax.scale_by_adam(), {"w": jnp.zeros((2, 2)), "b": jnp.zeros(1)}
    stacked = lambda params: jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), params)
    each = optax.GradientTransformation(lambda params: adam.init(stacked(params)), adam.update)
    tx = optax.chain(each, mtl.sum(), optax.scale_by_learning_rate(0.1))
    split = lambda rows: {"w": rows[..., :4].reshape(4, 2, 2), "b": rows[..., 4:]}
    steps = [split(ROWS), split(ROWS**3), split(ROWS[::-1])]
    state, alone, update = tx.init(params), [adam.init(params)] * 4, jax.jit(tx.update)
    for task_grads in steps:
        updates, state = update(task_grads, state, params)
        directions = []
        for task in range(4):
            direction, alone[task] = adam.update(jax.tree.map(lambda leaf, i=task: leaf[i], task_grads), alone[task])
            directions.append(direction)
        expected = jax.tree.map(lambda *each: -0.1 * sum(each), *directions)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), updates, expected)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, tx.init(params))
