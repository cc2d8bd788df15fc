"""Four tasks' gradients of two leaves, and how they lie when parameters are split over eight devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

NUM_TASKS = 4
ROWS = np.random.default_rng(0).standard_normal((NUM_TASKS, 16 * 32 + 64)).astype(np.float32)
TASK_GRADS = {"w": jnp.asarray(ROWS[:, :512]).reshape(-1, 16, 32), "b": jnp.asarray(ROWS[:, 512:])}
PARAMS = {"w": jnp.zeros((16, 32)), "b": jnp.zeros(64)}
SPECS = {"w": P(None, "model"), "b": P("model")}


def put(tree, mesh, specs):
    return jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), tree, specs)


def stacked_specs(task_axis=None):
    return jax.tree.map(lambda spec: P(task_axis, *spec), SPECS, is_leaf=lambda x: isinstance(x, P))


def collectives(program):
    """Count collectives on the path that ordinary gradients take; the rescue from under- and overflow is a branch."""
    text = program.as_text()
    main = text[text.index("\nENTRY") :]
    return {
        name: len(re.findall(rf"\b{name}(?:-start)?\(", main)) for name in ("all-reduce", "all-gather", "all-to-all")
    }
