"""A trunk that tasks share and heads of their own: only in the trunk there is anything to weigh."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.rows import check_update, rows_are_finite
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.transforms.aggregate import check_options
from mtlgrad_jax.typing import AxisName, Nonfinite, PyTree


def trunk_and_heads(
    aggregation: optax.GradientTransformation,
    mask: PyTree | Callable[[PyTree], PyTree],
    *,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Aggregate the gradients of what tasks share, and give each head its own.

    A head is nobody else's business: its task is the only one with a gradient there, so whatever moves it hurts no
    other. Weights, lengths and conflicts are those of the trunk; a head moves by the gradient of its own loss as in a
    sum of losses, neither shortened by a small weight nor weighed against the trunk.

    u = Jᵀw in the trunk,  u = Σᵢ gᵢ in the heads,   where no two rows meet

    It comes first in an `optax.chain`, as an aggregation does, and what follows (clipping, a schedule, weight decay)
    sees one gradient of all parameters; `accumulate` and `guard` go around the chain.

    Args:
      aggregation: Takes stacked task gradients, for instance `mtl.mgda(num_tasks=2)`. It sees the trunk only.
      mask: Booleans, True for what is shared: a tree like the parameters or a prefix of one, from `shared_leaves` or by
        hand, or a function from the parameters to it, as in `optax.masked`.
      axis_name: See `aggregate`.
      nonfinite: What to do when a task's gradient has a NaN or an infinity, in the trunk or in its head, see
        `aggregate`. Say it here, not to `aggregation`, which does not see the heads.

    Returns:
      An Optax transformation of stacked task gradients. A task that is not `present`, or is dropped, takes no part in
      the trunk, and its head stays. The state is that of `aggregation` for the trunk, in an `optax.MaskedState`; its
      `num_nonfinite` does not count what is dropped here.

    Raises:
      ValueError: If `nonfinite` is unknown; in `update`, if nothing is shared, the mask does not fit the gradients,
        or the task axis is missing or inconsistent.

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> def losses_fn(params):
      ...     return jnp.sum((params["trunk"] - params["left"]) ** 2), jnp.sum((params["trunk"] - params["right"]) ** 2)
      >>> params = {"trunk": jnp.zeros(2), "left": jnp.array([1.0, 0.0]), "right": jnp.array([-3.0, 0.0])}
      >>> shared = mtl.shared_leaves(losses_fn, params)
      >>> tx = optax.chain(mtl.trunk_and_heads(mtl.mgda(num_tasks=2), shared), optax.sgd(0.25))
      >>> losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
      >>> updates, state = tx.update(task_grads, tx.init(params), params)
      >>> optax.apply_updates(params, updates)
      {'left': Array([0.5, 0. ], dtype=float32), 'right': Array([-1.5,  0. ], dtype=float32),
       'trunk': Array([0., 0.], dtype=float32)}

    References:
      Sener & Koltun, arXiv 1810.04650, for the split; the heads as in TorchJD's `mtl_backward`.
    """
    check_options(False, None, nonfinite)
    trunk = optax.masked(aggregation, lambda tree: _mask_of(mask, tree), mask_compatible_extra_args=True)

    def update(updates, state, params=None, *, present=None, **extra_args):
        num_tasks = stacked.count_tasks(updates, params=params)
        is_shared = _mask_of(mask, updates)
        present = _attending(updates, present, extra_args.get("losses"), nonfinite, axis_name)
        extras = extra_args if present is None else dict(extra_args, present=present)
        taken, state = trunk.update(updates, state, params, **extras)
        own = lambda shared, rows: rows if shared else stacked.combine(rows, jnp.ones(num_tasks), keep=present)
        taken = jax.tree.map(own, is_shared, taken)
        check_update(taken, updates)
        return taken, state

    return optax.GradientTransformationExtraArgs(trunk.init, update)


def _mask_of(mask, tree):
    is_function = callable(mask) and jax.tree_util.all_leaves(
        [mask]
    )  # a module of Equinox is a tree that can be called
    mask = mask(tree) if is_function else mask
    if not any(jax.tree.leaves(mask)):
        raise ValueError(
            "expected a mask that is True for what tasks share, got one that is False everywhere; where tasks share "
            "nothing, mtl.sum() gives each its own gradient."
        )
    structure, own = jax.tree.structure(mask), jax.tree.structure(tree)
    if structure == own or structure.num_leaves != own.num_leaves:
        return mask
    # Flax NNX takes the variables around its arrays away after `init`: then leaves are found by their order.
    for name, theirs in zip(_names(mask), _names(tree), strict=True):
        if not (name.startswith(theirs) or theirs.startswith(name)):
            raise ValueError(
                f"expected a mask like the parameters, got a leaf {name} where they have {theirs}; make it by "
                "mtl.shared_leaves, or give a function from the parameters to it."
            )
    return own.unflatten(jax.tree.leaves(mask))


def _names(tree):
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _attending(updates, present, losses, nonfinite, axis_name):
    """Return who takes part in the trunk and has a head that moves, None for all."""
    if nonfinite == "propagate":
        return present
    finite = rows_are_finite(updates, axis_name=axis_name)
    invited = jnp.ones_like(finite) if present is None else jnp.asarray(present, bool)
    if nonfinite == "skip":
        return invited & jnp.all(finite | ~invited)
    return invited & finite if losses is None else invited & finite & jnp.isfinite(losses)
