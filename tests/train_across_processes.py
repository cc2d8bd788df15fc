"""Train a few steps with parameters split over the devices of all processes; print what every process saw.

Usage: python train_across_processes.py COORDINATOR NUM_PROCESSES PROCESS_ID. One process needs no coordinator.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import mtlgrad_jax as mtl


def main(coordinator, num_processes, process_id):
    if num_processes > 1:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    mesh = jax.make_mesh((jax.device_count(),), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    split = NamedSharding(mesh, P(None, "model"))
    rng = np.random.default_rng(0)
    start = rng.standard_normal((6, 16)).astype(np.float32)
    x, y = rng.standard_normal((32, 6)).astype(np.float32), rng.standard_normal((3, 32)).astype(np.float32)
    params = jax.make_array_from_callback(start.shape, split, lambda index: start[index])
    tx = optax.chain(mtl.mgda(num_tasks=3), optax.adam(1e-2))

    def losses_fn(params):
        hidden = jnp.tanh(x @ params)
        return jnp.mean((jnp.mean(hidden, axis=1) - y) ** 2, axis=1)

    @jax.jit
    def step(params, state):
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
        updates, state = tx.update(task_grads, state, params)
        return optax.apply_updates(params, updates), state, losses

    state = jax.jit(tx.init)(params)
    history = []
    for _ in range(5):
        params, state, losses = step(params, state)
        history.append({"weights": state[0].weights.tolist(), "losses": losses.tolist()})
    print(json.dumps({"devices": jax.device_count(), "history": history}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
