"""Parameters that stay as they are, and whose gradients count for nothing."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.jacobians import stacked


class FreezeState(NamedTuple):
    """No memory; `guard` knows by it that there are parameters which a correction of the step would move."""


def freeze() -> optax.GradientTransformation:
    """Turn stacked task gradients of parameters that do not move into a zero update.

    A group of its own in `optax.partition`, beside one that starts with the aggregation, as if the parameters were
    none. `optax.set_to_zero` would keep the task axis there, and the parameters would grow one; behind the
    aggregation it comes too late, as tasks were weighed by gradients along which nothing can move. Which parameters
    are frozen is said by the labels of `optax.partition`. `guard` goes into the group that moves.

    Returns:
      An `optax.GradientTransformation` without state, from leaves `(T, *param_shape)` to zeros `(*param_shape)`.

    Raises:
      ValueError: In `update`, if leaves have no task axis, as behind an aggregation, or there is none.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> params = {"trunk": jnp.zeros(2), "frozen": jnp.zeros(3)}
      >>> labels = {"trunk": "train", "frozen": "freeze"}
      >>> tx = optax.partition({"train": optax.chain(mtl.mgda(), optax.sgd(1.0)), "freeze": mtl.freeze()}, labels)
      >>> task_grads = {"trunk": jnp.eye(2), "frozen": jnp.ones((2, 3))}
      >>> tx.update(task_grads, tx.init(params), params)[0]
      {'frozen': Array([0., 0., 0.], dtype=float32), 'trunk': Array([-0.5, -0.5], dtype=float32)}
    """

    def update(updates, state, params=None):
        stacked.count_tasks(updates, params=params)
        return jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), updates), state

    return optax.GradientTransformation(lambda params: FreezeState(), update)
