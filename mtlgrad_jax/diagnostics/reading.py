"""What an optimiser's state says about its last step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtlgrad_jax.typing import Gram, PyTree, Weights


class Reading(NamedTuple):
    """The record that a method keeps of its last step."""

    gram: Gram | None  # (T, T), JJᵀ / 4^log2_scale; None if the method needs none, as `sum`
    log2_scale: jax.Array  # () int32, zero for ordinary gradients
    weights: Weights  # (T,), zero if the update was no combination of the gradients
    gap: jax.Array | None  # (), the method's certificate; the largest float before the first step; None as above


def read(opt_state: PyTree) -> Reading:
    """Find the record of the last step in an optimiser's state, however deep it lies.

    It looks for the fields and not for a type, so it also reads an `AggregateState`, a `DescentInfo`, or the whole
    of a Flax `TrainState`.

    Args:
      opt_state: Any pytree with the state of one method of this package that was made with `num_tasks`:
        chained, partitioned, masked, accumulated, with injected hyperparameters.

    Returns:
      A `Reading`, under jit too; with a leading axis if the state has one.

    Raises:
      ValueError: If there is no record in the state, or more than one.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> tx = optax.chain(optax.clip(10.0), mtl.mgda(num_tasks=2), optax.adam(0.1))
      >>> params = jnp.zeros(3)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> _, opt_state = tx.update(task_grads, tx.init(params), params)
      >>> mtl.diagnostics.read(opt_state).weights
      Array([0.6, 0.4], dtype=float32)
    """
    records = [node for node in jax.tree.leaves(opt_state, is_leaf=is_record) if is_record(node)]
    if len(records) != 1:
        advice = (
            "make the method with num_tasks=T, as in mtl.mgda(num_tasks=2), so that it keeps gram, weights and gap"
            if not records
            else "pass the part of the state that you mean"
        )
        raise ValueError(f"expected a state with the record of one method, got {len(records) or 'none'}; {advice}.")
    return jax.tree.map(jnp.asarray, Reading(*(getattr(records[0], name) for name in Reading._fields)))


def is_record(node: Any) -> bool:
    """Whether a node of a state is the record of a method."""
    return set(Reading._fields) <= set(getattr(node, "_fields", ()))
