"""J held in full: a pytree shaped like the parameters whose leaves have a leading task axis."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mtlgrad_jax.ground.leaves import at_least_single, is_inexact, weighted_sum
from mtlgrad_jax.ground.meshes import check_axes
from mtlgrad_jax.ground.ranges import undo_scale
from mtlgrad_jax.ground.rows import inner_products
from mtlgrad_jax.jacobians._losses import check_chunk_size, loss_vector, map_in_chunks, trainable
from mtlgrad_jax.jacobians._scaled_gram import scaled_gram_of
from mtlgrad_jax.jacobians._task_axis import count_tasks as count_tasks
from mtlgrad_jax.typing import AxisName, Gram, PyTree, Weights


@partial(jax.tree_util.register_dataclass, data_fields=("task_grads",), meta_fields=("axis_name",))
@dataclass(frozen=True)
class Stacked:
    """Stacked task gradients behind the interface of `typing.Jacobian`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> jac = mtl.jacobians.stacked.Stacked({"w": jnp.eye(2)})
      >>> jac.combine(jnp.array([0.25, 0.75]))
      {'w': Array([0.25, 0.75], dtype=float32)}
    """

    task_grads: PyTree  # leaves (T, *param_shape)
    axis_name: AxisName = None  # mesh axes over which leaves are split inside `shard_map`

    @property
    def num_tasks(self) -> int:
        """T."""
        return count_tasks(self.task_grads)

    def gram(self) -> Gram:
        """Return JJᵀ."""
        return gram(self.task_grads, axis_name=self.axis_name)

    def scaled_gram(self) -> tuple[Gram, jax.Array]:
        """Return the Gram matrix of 2⁻ᵏJ and k, see `scaled_gram`."""
        return scaled_gram(self.task_grads, axis_name=self.axis_name)

    def combine(self, weights: Weights, *, keep: jax.Array | None = None) -> PyTree:
        """Return Jᵀw, see `combine`."""
        return combine(self.task_grads, weights, keep=keep)

    def push(self, direction: PyTree) -> jax.Array:
        """Return Jv."""
        return push(self.task_grads, direction, axis_name=self.axis_name)


def linearize(
    losses_fn: Callable[..., Any], params: PyTree, *args: Any, has_aux: bool = False, chunk_size: int | None = None
) -> tuple[Any, Stacked]:
    """Evaluate the losses of all tasks and hold their gradients, `task_value_and_grad` behind the common interface.

    Args:
      losses_fn: As in `task_value_and_grad`.
      params: Any pytree.
      *args: Handed to `losses_fn`.
      has_aux: As in `task_value_and_grad`.
      chunk_size: As in `task_value_and_grad`.

    Returns:
      `(losses, jac)`, or `((losses, aux), jac)`, with `jac.gram()`, `jac.combine(w)` and `jac.push(v)`.

    Raises:
      ValueError: As in `task_value_and_grad`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> losses, jac = mtl.jacobians.stacked.linearize(lambda params: params**2, jnp.array([1.0, 2.0]))
      >>> jac.gram()
      Array([[ 4.,  0.],
             [ 0., 16.]], dtype=float32)
    """
    value, task_grads = task_value_and_grad(losses_fn, has_aux=has_aux, chunk_size=chunk_size)(params, *args)
    return value, Stacked(task_grads)


def gram(task_grads: PyTree, *, axis_name: str | tuple[str, ...] | None = None) -> Gram:
    """Compute the Gram matrix of stacked task gradients, leaf by leaf.

    Gᵢⱼ = Re⟨gᵢ, gⱼ⟩

    Args:
      task_grads: Leaves `(T, *param_shape)`, floating or complex. Integer leaves carry no gradient and are
        left out.
      axis_name: Mesh axes over which parameters are split inside `shard_map`; a leaf that is whole on every
        device is counted once. `()` treats each device on its own.

    Returns:
      G, shape `(T, T)`; float32, or float64 if a leaf is. A row that is not finite makes its row and column
      of G not finite and no other. What float32 cannot hold is infinite or zero; `scaled_gram` holds it.

    Raises:
      ValueError: If the task axis is missing or inconsistent, or gradients differ over a mesh axis that
        `axis_name` does not name.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.jacobians.stacked.gram({"w": jnp.array([[1.0, 2.0], [0.0, 1.0]]), "b": jnp.array([2.0, 0.0])})
      Array([[9., 2.],
             [2., 1.]], dtype=float32)
    """
    return undo_scale(*scaled_gram(task_grads, axis_name=axis_name))


def scaled_gram(task_grads: PyTree, *, axis_name: str | tuple[str, ...] | None = None) -> tuple[Gram, jax.Array]:
    """Compute the Gram matrix of 2⁻ᵏJ, with k = 0 unless squares leave the range of the floating-point type.

    Ordinary gradients are read once. Only if a squared length overflows, comes close to underflow, or is
    zero while the longest gradient is short too, they are read three more times, to find k and for the scaled products.

    Args:
      task_grads: As in `gram`.
      axis_name: As in `gram`.

    Returns:
      G, shape `(T, T)`, and k, an int32 scalar: JJᵀ = 4ᵏG.

    Raises:
      ValueError: If the task axis is missing or inconsistent.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> g, k = mtl.jacobians.stacked.scaled_gram(jnp.array([[3e-30], [1e-30]]))
      >>> float(g[0, 0] / g[1, 1]) > 8.99, int(k)
      (True, -98)
    """
    count_tasks(task_grads)
    return scaled_gram_of([leaf for leaf in jax.tree.leaves(task_grads) if is_inexact(leaf)], axis_name)


def combine(task_grads: PyTree, weights: Weights, *, keep: jax.Array | None = None) -> PyTree:
    """Compute the weighted sum of stacked task gradients.

    u = Jᵀw

    Args:
      task_grads: Leaves `(T, *param_shape)`.
      weights: w, shape `(T,)`.
      keep: Boolean, shape `(T,)`; rows that are left out whatever they hold, also NaN. All by default.

    Returns:
      u, leaves `(*param_shape)` in the dtype of the incoming leaf, accumulated in float32 or better. Integer
      leaves become zeros.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.jacobians.stacked.combine({"b": jnp.array([2.0, 4.0])}, jnp.array([0.5, 0.5]))
      {'b': Array(3., dtype=float32)}
    """

    def combine_leaf(leaf):
        if is_inexact(leaf):
            return _weighted_sum(leaf, weights, keep)
        return jnp.zeros(jnp.shape(leaf)[1:], jnp.int32 if leaf.dtype == jax.dtypes.float0 else leaf.dtype)

    return jax.tree.map(combine_leaf, task_grads)


@jax.jit
def _weighted_sum(leaf, weights, keep):
    return weighted_sum(leaf.astype(at_least_single(leaf.dtype)), weights, keep).astype(leaf.dtype)


def push(task_grads: PyTree, direction: PyTree, *, axis_name: str | tuple[str, ...] | None = None) -> jax.Array:
    """Compute how fast every loss changes along a direction, leaf by leaf.

    (Jv)ᵢ = Re⟨gᵢ, v⟩

    Args:
      task_grads: Leaves `(T, *param_shape)`, as in `gram`.
      direction: v, leaves `(*param_shape)`; integer leaves are left out.
      axis_name: As in `gram`.

    Returns:
      Jv, shape `(T,)`, accumulated in float32, or in float64 if a leaf is. A row that is not finite makes its own
      entry not finite and no other.

    Raises:
      ValueError: If the task axis is missing or inconsistent, or gradients differ over a mesh axis that
        `axis_name` does not name.

    Example:
      >>> import jax.numpy as jnp
      >>> import mtlgrad_jax as mtl
      >>> task_grads = {"w": jnp.array([[1.0, 2.0], [0.0, 1.0]]), "b": jnp.array([2.0, 0.0])}
      >>> mtl.jacobians.stacked.push(task_grads, {"w": jnp.array([1.0, -1.0]), "b": jnp.array(3.0)})
      Array([ 5., -1.], dtype=float32)
    """
    count_tasks(task_grads)
    check_axes([leaf for leaf in jax.tree.leaves(task_grads) if is_inexact(leaf)], axis_name)
    return inner_products(task_grads, direction, axis_name=axis_name)


def task_value_and_grad(
    losses_fn: Callable[..., Any], *, has_aux: bool = False, chunk_size: int | None = None
) -> Callable[..., Any]:
    """Turn a function that returns the losses of all tasks into one that also returns their gradients.

    The forward pass runs once; the backward pass runs for `chunk_size` tasks at a time.

    Args:
      losses_fn: `losses_fn(params, *args, **kwargs)` returning losses of shape `(T,)`, or a tuple, list or
        dict of T scalars (a dict in the order in which it was written); with `has_aux`, a pair of these and
        anything.
      has_aux: Whether `losses_fn` returns auxiliary data too: what one forward pass changes in a model (batch
        statistics, streams of random numbers) leaves this way, see `notebooks/examples` for every framework.
      chunk_size: Number of tasks per backward sweep; all at once by default, 1 for the least memory.

    Returns:
      A function returning `(losses, task_grads)`, or `((losses, aux), task_grads)`: losses `(T,)`, and a tree
      like `params` with leaves `(T, *param_shape)`, row i the gradient of loss i. Integer parameters get
      zeros, `None` stays `None`, functions and strings become it. An Equinox module gets what
      `equinox.filter_grad` gives: None for all but floating-point arrays.

      What is not finite in one task's own computation (0/0, the root of zero) stays in its row, also when the
      tasks are the entries of one vector. Only faults of what all share, or inside a `lax.scan`, `shard_map`
      or kernel that computes several tasks at once, spoil every row.

    Raises:
      ValueError: If the losses are not a vector or a flat container of scalars, or the parameters are a Flax
        NNX module, whose other state would be lost.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> def losses_fn(params, x):
      ...     return {"first": jnp.sum(params * x), "second": jnp.sum(params**2)}
      >>> losses, task_grads = mtl.task_value_and_grad(losses_fn)(jnp.array([1.0, 2.0]), 3.0)
      >>> losses
      Array([9., 5.], dtype=float32)
      >>> task_grads
      Array([[3., 3.],
             [2., 4.]], dtype=float32)
    """
    from mtlgrad_jax.jacobians._isolation import isolated  # with all of jax.extend, which takes as long as this package

    check_chunk_size(chunk_size)

    def value_and_grad(params, *args, **kwargs):
        where = trainable(params)
        floats, others = where.split(params)
        function = loss_vector(losses_fn, where, others, has_aux)
        losses, pull_back, aux = jax.vjp(lambda leaves: function(leaves, *args, **kwargs), floats, has_aux=True)
        pull_back = isolated(pull_back, losses)
        rows = map_in_chunks(lambda seed: pull_back(seed)[0], jnp.diag(jnp.ones_like(losses)), chunk_size)
        zeros = where.zeros(others, losses.shape[0])
        return ((losses, aux) if has_aux else losses), where.merge(rows, zeros)

    return value_and_grad
