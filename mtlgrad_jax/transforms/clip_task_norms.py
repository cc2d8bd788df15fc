"""Clipping of each task's gradient by its own length, before any task is weighed."""

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.leaves import is_inexact, map_parts, per_row, widest
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two
from mtlgrad_jax.ground.rows import row_lengths
from mtlgrad_jax.jacobians import stacked


def clip_task_norms(
    max_norm: jax.Array | float, *, axis_name: str | tuple[str, ...] | None = None
) -> optax.GradientTransformation:
    """Shorten the gradient of every task that is longer than a limit to that limit.

    One task with an outlier in its batch then cannot outweigh the others. `optax.clip_by_global_norm` would
    take the stack of all tasks for one gradient; behind the aggregation it clips the update instead.

    gᵢ ← gᵢ · min(1, c/‖gᵢ‖)

    Args:
      max_norm: c, a number or shape `(T,)`, one limit per task.
      axis_name: Mesh axis (or axes) over which parameters are split inside `shard_map`.

    Returns:
      An `optax.GradientTransformation` without state, from stacked task gradients to stacked task gradients:
      the one thing that may come before `mgda()` and the like in an `optax.chain`. ‖gᵢ‖ is taken over all
      leaves, at any scale; a row within its limit, zero or not finite stays as it is to the last bit, so that
      the `nonfinite` policy of the method that follows sees it. Integer leaves carry no gradient and stay.

    Raises:
      ValueError: If `max_norm` is a negative number; in `update`, if the task axis is missing or inconsistent,
        `max_norm` has another length than T, or gradients differ over a mesh axis that `axis_name` does not
        name.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.clip_task_norms(1.0), mtl.mean(), optax.sgd(1.0))
      >>> params = jnp.zeros(2)
      >>> task_grads = jnp.array([[8.0, 0.0], [0.0, 0.5]])
      >>> tx.update(task_grads, tx.init(params), params)[0]
      Array([-0.5 , -0.25], dtype=float32)

    References:
      Pascanu, Mikolov & Bengio, arXiv 1211.5063, algorithm 1, for one task.
    """
    if isinstance(max_norm, int | float) and not max_norm >= 0:
        raise ValueError(f"expected max_norm of at least zero, got {max_norm}.")

    def update(updates, state, params=None):
        num_tasks = stacked.count_tasks(updates, params=params)
        if jnp.shape(max_norm) not in ((), (num_tasks,)):
            raise ValueError(
                f"expected max_norm to be a number or of shape ({num_tasks},), one limit per task, "
                f"got shape {jnp.shape(max_norm)}."
            )
        leaves = [leaf for leaf in jax.tree.leaves(updates) if is_inexact(leaf)]
        limits = jnp.broadcast_to(jnp.asarray(max_norm, widest(leaves)), num_tasks)
        lengths, exponents = row_lengths(leaves, exponent_of(limits), axis_name)
        is_long = jnp.isfinite(lengths) & (lengths > scale_by_power_of_two(limits, -exponents))
        lengths, limits = jnp.where(is_long, lengths, 1), jnp.where(is_long, limits, 1)

        def shorten(part):
            unit = scale_by_power_of_two(part.astype(lengths.dtype), -per_row(exponents, part))
            short = unit / per_row(lengths, part) * per_row(limits, part)  # in this order nothing leaves the range
            return jnp.where(per_row(is_long, part), short.astype(part.dtype), part)

        return jax.tree.map(lambda leaf: map_parts(shorten, leaf) if is_inexact(leaf) else leaf, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
