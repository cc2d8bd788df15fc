"""Flax Linen: a recommender with a large embedding, for which T stacked gradients would be T tables.

Two tasks: is an item clicked, how long is it watched. The Gram matrix is formed from what goes in and out of the layers
(`method="structured"`), so that no gradient of a task is ever held; the combined one is an ordinary gradient.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

import mtlgrad_jax as mtl

TASKS = ("click", "watch")


class State(TrainState):
    batch_stats: dict


class Network(nn.Module):
    num_users: int
    num_items: int = 1000

    @nn.compact
    def __call__(self, users, items, train=True):
        pair = [nn.Embed(self.num_users, 16, name="users")(users), nn.Embed(self.num_items, 16, name="items")(items)]
        hidden = nn.Dense(32)(jnp.concatenate([*pair, pair[0] * pair[1]], axis=1))
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        hidden = nn.Dropout(0.1, deterministic=not train)(hidden)
        return {task: nn.Dense(1, name=task)(hidden)[:, 0] for task in TASKS}


@jax.jit
def train_step(state, batch, key):
    def losses_fn(params):
        variables, rngs = {"params": params, "batch_stats": state.batch_stats}, {"dropout": key}
        outputs, changed = state.apply_fn(variables, batch["user"], batch["item"], rngs=rngs, mutable=["batch_stats"])
        click = optax.sigmoid_binary_cross_entropy(outputs["click"], batch["click"]).mean()
        losses = {"click": click, "watch": optax.l2_loss(outputs["watch"], batch["watch"]).mean()}
        return losses, changed["batch_stats"]

    how = {"method": "structured", "has_aux": True}
    (losses, stats), direction, info = mtl.descent_direction(losses_fn, state.params, mtl.weightings.mgda, **how)
    state = state.apply_gradients(grads=direction, batch_stats=stats)
    return state, losses, mtl.diagnostics.scalars(info, names=TASKS)


def draw(key, num_users, size=512):
    keys = jax.random.split(key, 3)
    user, item = (jax.random.randint(k, (size,), 0, n) for k, n in zip(keys, (num_users, 1000), strict=False))
    taste = jnp.sin(user % 7 + item % 5) + 0.5 * jnp.cos(item % 11)
    noise = jax.random.normal(keys[2], (size,))
    watch = jnp.cos(user % 7 - item % 3) - 0.5 * taste + 0.1 * noise
    return {"user": user, "item": item, "click": (taste + 0.3 * noise > 0).astype(jnp.float32), "watch": watch}


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--users", type=int, default=20_000)
    args = parser.parse_args(argv)
    network, key, history = Network(args.users), jax.random.key(0), []
    variables = network.init({"params": key, "dropout": key}, jnp.zeros(1, int), jnp.zeros(1, int))
    state = State.create(apply_fn=network.apply, tx=optax.adam(1e-2), **variables)
    for number in range(args.steps):
        draw_key = jax.random.fold_in(key, number)
        state, losses, logged = train_step(state, draw(draw_key, args.users), jax.random.fold_in(draw_key, 0))
        history.append(losses.tolist())
    print("losses", history[0], "->", history[-1], {name: round(float(value), 3) for name, value in logged.items()})
    return history[0], history[-1]


if __name__ == "__main__":
    main()
