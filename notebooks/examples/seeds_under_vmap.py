"""Haiku: one policy for three games, learned by policy gradients with sixteen seeds at once in one program.

Every seed is a lane of `jax.vmap` with its own network, its own experience, and its own key in PCGrad's random order.
"""

import argparse
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import mtlgrad_jax as mtl

NUM_GAMES, NUM_ACTIONS = 3, 4


class Seed(NamedTuple):
    key: jax.Array
    params: dict
    opt_state: tuple


def policy(observations):
    trunk = hk.nets.MLP([32, 32], activate_final=True, name="trunk")(observations)
    return jnp.stack([hk.Linear(NUM_ACTIONS, name=f"game_{game}")(trunk) for game in range(NUM_GAMES)])


network = hk.without_apply_rng(hk.transform(policy))


def rewards(observations, actions):  # of every game: which action is best depends on another part of the observation
    best = [jnp.argmax(observations[:, 2 * game : 2 * game + NUM_ACTIONS], axis=1) for game in range(NUM_GAMES)]
    return (actions == jnp.stack(best)).astype(jnp.float32)


def losses_fn(params, key):  # REINFORCE, one loss for each game
    observe, act = jax.random.split(key)
    observations = jax.random.normal(observe, (64, 8))
    logits = network.apply(params, observations)
    actions = jax.random.categorical(act, logits)
    reward = rewards(observations, actions)
    advantage = reward - jnp.mean(reward, axis=1, keepdims=True)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), actions[..., None], axis=2)[..., 0]
    return -jnp.mean(chosen * advantage, axis=1), jnp.mean(reward, axis=1)


def optimizer(key):  # from the key of a seed, so that every seed draws by itself
    shared = lambda params: {module: module.startswith("trunk") for module in params}
    return optax.chain(mtl.trunk_and_heads(mtl.pcgrad(num_tasks=NUM_GAMES, key=key), shared), optax.adam(3e-3))


def begin(key):
    params = network.init(key, jnp.zeros((1, 8)))
    return Seed(key, params, optimizer(key).init(params))


def step(seed, number):
    key = jax.random.fold_in(seed.key, number)
    (_, reward), task_grads = mtl.task_value_and_grad(losses_fn, has_aux=True)(seed.params, key)
    updates, opt_state = optimizer(seed.key).update(task_grads, seed.opt_state, seed.params)
    return Seed(seed.key, optax.apply_updates(seed.params, updates), opt_state), reward


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1000)
    args = parser.parse_args(argv)
    seeds = jax.vmap(begin)(jax.random.split(jax.random.key(0), 16))
    train = jax.jit(jax.vmap(lambda seed: jax.lax.scan(step, seed, jnp.arange(args.steps))))
    seeds, reward = train(seeds)  # (seeds, steps, games)
    last = jnp.mean(reward[:, -max(args.steps // 10, 1) :], axis=1)
    print(f"reward of each game (chance: {1 / NUM_ACTIONS}) {last.mean(0)}, its deviation over seeds {last.std(0)}")
    return reward, seeds


if __name__ == "__main__":
    main()
