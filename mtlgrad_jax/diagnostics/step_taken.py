"""What the step that is taken does to every task, whatever made it: momentum, Adam, weight decay, a schedule."""

from typing import Any

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.grams import reciprocal, row_norms
from mtlgrad_jax.ground.leaves import contract, is_inexact, widest
from mtlgrad_jax.ground.meshes import AxisName, sum_of_pieces
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two
from mtlgrad_jax.ground.rows import check_update, inner_products, largest_per_row, row_lengths, scale_tree
from mtlgrad_jax.typing import Jacobian, PyTree, StepRecord

HURT = 64  # rounding units of a cosine


def step_cosines(task_grads: PyTree | Jacobian, updates: PyTree, *, axis_name: AxisName = None) -> jax.Array:
    """Compute the cosines between the step that is taken and every task gradient, turned so that it descends.

    `alignment` asks this of the direction u = Jᵀw. Behind momentum, a preconditioner or weight decay the step is
    another vector, with which tasks may be hurt that u spares.

    cos(gᵢ, −Δθ)

    Args:
      task_grads: Leaves `(T, *param_shape)`, or any `typing.Jacobian`, at the parameters before the step.
      updates: Δθ, what `optax.apply_updates` adds to the parameters.
      axis_name: Mesh axes over which stacked gradients are split inside `shard_map`.

    Returns:
      Shape `(T,)`, in [−1, 1], positive where the step lowers the loss to first order. Zero for a zero gradient, a
      zero step, and where one is not finite.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.mgda(), optax.adam(0.1))
      >>> params, task_grads = jnp.zeros(2), jnp.array([[3.0, 4.0], [4.0, -3.0]])
      >>> updates, _ = tx.update(task_grads, tx.init(params), params)
      >>> mtl.diagnostics.step_cosines(task_grads, updates).round(4)
      Array([0.9899, 0.1414], dtype=float32)
    """
    if not isinstance(task_grads, Jacobian):
        check_update(updates, task_grads)
    leaves = [leaf for leaf in jax.tree.leaves(updates) if is_inexact(leaf)]
    largest = largest_per_row([leaf[None] for leaf in leaves], widest(leaves), axis_name)[0]
    unit = scale_tree(updates, -exponent_of(jnp.where(jnp.isfinite(largest), largest, 0)))
    squares = [contract(leaf, leaf, 0).astype(largest.dtype) for leaf in jax.tree.leaves(unit) if is_inexact(leaf)]
    size = jnp.sqrt(sum_of_pieces(squares, axis_name))
    products, lengths = _measure(task_grads, unit, axis_name)
    known = jnp.isfinite(products) & jnp.isfinite(size) & jnp.isfinite(lengths)
    slope = jnp.where(known, products, 0) * reciprocal(jnp.where(known, lengths, 0))
    return jnp.clip(-slope * reciprocal(jnp.where(jnp.isfinite(size), size, 0)).astype(slope.dtype), -1, 1)


def hurt_by_step(task_grads: PyTree | Jacobian, updates: PyTree, *, axis_name: AxisName = None) -> jax.Array:
    """Tell which losses the step that is taken raises, to first order.

    cos(gᵢ, −Δθ) < −64ε

    Args:
      task_grads: See `step_cosines`.
      updates: See `step_cosines`.
      axis_name: See `step_cosines`.

    Returns:
      Booleans, shape `(T,)`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> params, task_grads = jnp.zeros(2), jnp.array([[1.0, 20.0], [1.0, -10.0]])
      >>> tx = optax.chain(mtl.mean(), optax.adam(0.1))
      >>> for tx in (tx, mtl.guard(tx)):
      ...     updates, _ = tx.update(task_grads, tx.init(params), params)
      ...     print(mtl.diagnostics.hurt_by_step(task_grads, updates))
      [False  True]
      [False False]
    """
    return hurt(step_cosines(task_grads, updates, axis_name=axis_name))


def hurt(cosines: jax.Array) -> jax.Array:
    """Tell which cosines between a task gradient and a step are negative beyond rounding."""
    return cosines < -HURT * jnp.finfo(cosines.dtype).eps


def read_step(opt_state: PyTree) -> StepRecord:
    """Find what `guard` recorded of its last step in an optimiser's state, however deep it lies.

    Args:
      opt_state: Any pytree with the state of one `guard(..., num_tasks=T)`.

    Returns:
      A `StepRecord`, under jit too. `history.append(opt_state, **read_step(opt_state)._asdict())` keeps it beside
      what a `History` reads of the method inside.

    Raises:
      ValueError: If there is no record in the state, or more than one.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import mtlgrad_jax as mtl
      >>> tx = mtl.guard(optax.chain(mtl.mean(), optax.adam(0.1)), num_tasks=2)
      >>> params = jnp.zeros(2)
      >>> _, opt_state = tx.update(jnp.array([[1.0, 20.0], [1.0, -10.0]]), tx.init(params), params)
      >>> record = mtl.diagnostics.read_step(opt_state)
      >>> record.cosines_before < -0.5, record.cosines_after < -1e-6
      (Array([False,  True], dtype=bool), Array([False, False], dtype=bool))
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=is_step_record)
    records = [node for node in nodes if is_step_record(node)]
    if len(records) != 1:
        raise ValueError(
            f"expected a state with the record of one guard, got {len(records) or 'none'}; make it with num_tasks=T, "
            "as in mtl.guard(optimizer, num_tasks=2), or pass the part of the state that you mean."
        )
    return records[0]


def is_step_record(node: Any) -> bool:
    """Whether a node of a state is the record of a guarded step."""
    return isinstance(node, StepRecord)


def _measure(task_grads, unit, axis_name):
    """Return ⟨gᵢ,v⟩ and ‖gᵢ‖, in one unit for each task."""
    if isinstance(task_grads, Jacobian):
        jac = getattr(task_grads, "at_parameters", lambda: task_grads)()
        gram, log2_scale = jac.scaled_gram()
        return scale_by_power_of_two(jac.push(unit).astype(gram.dtype), -log2_scale), row_norms(gram)
    rows = [leaf for leaf in jax.tree.leaves(task_grads) if is_inexact(leaf)]
    lengths, exponents = row_lengths(rows, jnp.zeros(rows[0].shape[0], jnp.int32), axis_name)
    products = inner_products(task_grads, unit, axis_name=axis_name)
    return scale_by_power_of_two(products, -exponents), lengths
