"""Equinox: a frozen network learns two new tasks by low-rank adapters that they share, and a head for each.

No step hurts a task: `mtl.guard` makes the promise of the step itself, behind AdamW's momentum and weight decay.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import mtlgrad_jax as mtl

TASKS = ("near", "far")


class Adapter(eqx.Module):  # W + BA, where W stays as it is
    frozen: eqx.nn.Linear
    down: jax.Array
    up: jax.Array

    def __call__(self, x):
        return self.frozen(x) + self.up @ (self.down @ x)


class Network(eqx.Module):
    layers: list[Adapter]
    heads: dict[str, eqx.nn.Linear]

    def __call__(self, x):
        for layer in self.layers:
            x = jax.nn.gelu(layer(x))
        return {task: head(x)[0] for task, head in self.heads.items()}


def adapted(layer, key, rank=4):
    return Adapter(layer, jax.random.normal(key, (rank, layer.in_features)), jnp.zeros((layer.out_features, rank)))


def losses_fn(trainable, frozen, x):
    outputs = jax.vmap(eqx.combine(trainable, frozen))(x)
    targets = jnp.sin(x[:, 0] + x[:, 1]), jnp.cos(x[:, 1]) * x[:, 2]
    return {task: jnp.mean((outputs[task] - target) ** 2) for task, target in zip(TASKS, targets, strict=True)}


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args(argv)
    *keys, key = jax.random.split(jax.random.key(0), 5)
    pretrained = [eqx.nn.Linear(8, 64, key=keys[0]), eqx.nn.Linear(64, 64, key=keys[1])]  # yours come from a file
    heads = {task: eqx.nn.Linear(64, 1, key=k) for task, k in zip(TASKS, keys[2:], strict=True)}
    model = Network([adapted(layer, k) for layer, k in zip(pretrained, keys[:2], strict=True)], heads)
    is_trained = jax.tree.map(eqx.is_inexact_array, model)
    is_trained = eqx.tree_at(lambda m: [layer.frozen for layer in m.layers], is_trained, replace_fn=lambda _: False)
    trainable, frozen = eqx.partition(model, is_trained)
    shared = mtl.shared_leaves(losses_fn, trainable, frozen, jnp.zeros((1, 8)))
    chain = optax.chain(mtl.trunk_and_heads(mtl.mgda(num_tasks=2), shared), optax.adamw(1e-2))
    tx, history = mtl.guard(chain, num_tasks=len(TASKS)), []

    @eqx.filter_jit
    def step(trainable, opt_state, key):
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(trainable, frozen, jax.random.normal(key, (128, 8)))
        updates, opt_state = tx.update(task_grads, opt_state, trainable)
        return eqx.apply_updates(trainable, updates), opt_state, losses

    opt_state = tx.init(trainable)
    for batch_key in jax.random.split(key, args.steps):
        trainable, opt_state, losses = step(trainable, opt_state, batch_key)
        history.append((losses.tolist(), mtl.diagnostics.scalars(opt_state, names=TASKS)))
    hurts = lambda key: sum(min(logged[f"step/{key}/{task}"] for task in TASKS) < -1e-5 for _, logged in history)
    print("losses", history[0][0], "->", history[-1][0])
    print("steps that hurt a task:", hurts("cosine"), "and without the guard:", hurts("cosine_before"))
    return history[0][0], history[-1][0]


if __name__ == "__main__":
    main()
