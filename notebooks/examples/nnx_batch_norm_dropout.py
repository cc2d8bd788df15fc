"""Flax NNX: a model as it goes into production, with batch statistics, dropout, a schedule, weight decay and a log.

Three tasks read one table: a class, a price, a rating. What they share is aggregated, heads have their own gradients.
"""

import argparse
import csv

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import mtlgrad_jax as mtl

WIDTHS = {"kind": 4, "price": 1, "rating": 1}  # the tasks, and the outputs of their heads


class Network(nnx.Module):
    def __init__(self, rngs):
        self.trunk, self.norm = nnx.Linear(16, 64, rngs=rngs), nnx.BatchNorm(64, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.heads = nnx.Dict({task: nnx.Linear(64, width, rngs=rngs) for task, width in WIDTHS.items()})

    def __call__(self, x):
        hidden = self.dropout(nnx.relu(self.norm(self.trunk(x))))
        return {task: self.heads[task](hidden) for task in WIDTHS}


def losses_of(outputs, batch):
    kind = optax.softmax_cross_entropy_with_integer_labels(outputs["kind"], batch["kind"]).mean()
    return {"kind": kind} | {t: optax.l2_loss(outputs[t][:, 0], batch[t]).mean() for t in ("price", "rating")}


def losses_fn(params, graph, rest, batch):
    model = nnx.merge(graph, params, rest, copy=True)
    return losses_of(model(batch["x"]), batch), nnx.state(model, nnx.Not(nnx.Param))  # statistics, random streams


@nnx.jit
def train_step(model, optimizer, batch):
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    (losses, rest), task_grads = mtl.task_value_and_grad(losses_fn, has_aux=True)(params, graph, rest, batch)
    nnx.update(model, rest)
    optimizer.update(model, task_grads)
    return losses


def draw(key):
    x = jax.random.normal(key, (256, 16))
    price = jnp.tanh(x[:, 0] + x[:, 1] * x[:, 2])
    return {"x": x, "kind": jnp.argmax(x[:, 2:6], axis=1), "price": price, "rating": jnp.sin(2 * x[:, 1]) - price / 2}


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--log", default="training.csv")
    args = parser.parse_args(argv)
    model, (test, *batches) = Network(nnx.Rngs(0)), map(draw, jax.random.split(jax.random.key(0), args.steps + 1))
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    shared = mtl.shared_leaves(losses_fn, params, graph, rest, test, has_aux=True)
    adamw = optax.adamw(optax.cosine_decay_schedule(1e-2, args.steps), weight_decay=1e-4)
    tx = optax.chain(mtl.trunk_and_heads(mtl.upgrad(num_tasks=3), shared), optax.clip_by_global_norm(1.0), adamw)
    optimizer, rows = nnx.Optimizer(model, tx, wrt=nnx.Param), []
    for batch in batches:
        rows.append(dict(zip(WIDTHS, train_step(model, optimizer, batch).tolist(), strict=True)))
        rows[-1] |= mtl.diagnostics.scalars(optimizer.opt_state, names=WIDTHS)
    with open(args.log, "w", newline="") as file:
        (table := csv.DictWriter(file, rows[0])).writeheader()
        table.writerows(rows)
    model.eval()
    ends = {task: (rows[0][task], float(loss)) for task, loss in losses_of(model(test["x"]), test).items()}
    print("first loss of a batch, last loss of a fresh one:", ends, "log:", args.log)
    return zip(*ends.values(), strict=True)


if __name__ == "__main__":
    main()
