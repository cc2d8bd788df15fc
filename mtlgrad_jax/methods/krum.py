"""Krum: follow the gradients that have the closest neighbours."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_gram, without_scale
from mtlgrad_jax.ground.presence import everyone, leave_out, number
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Gram, Nonfinite, Weights

CLAIMS = Claims(
    "gradients with closest neighbours",
    keeps="F",
    sums_to="1",
    costs="T² log T",
    variants={"2_of_3": {"options": lambda num_tasks: {"num_byzantine": 1, "num_selected": 2}, "min_tasks": 4}},
)


def weights(gram: Gram, *, num_byzantine: int = 0, num_selected: int = 1, present: jax.Array | None = None) -> Weights:
    """Weigh tasks by selecting the gradients that are closest to their neighbours.

    Up to `num_byzantine` rows may be anything, also adversarial: the selected ones lie where the others are.
    With `num_selected` above one it is multi-Krum.

    score(i) = sum of the T − f − 2 smallest ‖gᵢ − gⱼ‖², j ≠ i;   w = 1/m on the m smallest scores

    Args:
      gram: G = JJᵀ, shape `(T, T)`.
      num_byzantine: f.
      num_selected: m.
      present: Booleans, shape `(T,)`, the tasks that take part; all by default.

    Returns:
      w, shape `(T,)`, summing to one. Of equal scores the first wins. With f = 0 and T ≤ 2, where no
      neighbour is left to compare with, one is used; so where absent tasks leave fewer than f + 3. T counts
      the tasks present.

    Raises:
      ValueError: If there are fewer than f + 3 tasks (with f > 0), or fewer than m.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> task_grads = jnp.array([[1.0], [1.1], [1.3], [-50.0]])
      >>> mtl.weightings.krum(task_grads @ task_grads.T, num_byzantine=1)
      Array([1., 0., 0., 0.], dtype=float32)

    References:
      Blanchard et al., NeurIPS 2017. Some re-implementations add distances instead of their squares.
    """
    num_tasks = check_gram(gram)
    if num_byzantine < 0 or (num_byzantine > 0 and num_tasks < num_byzantine + 3):
        raise ValueError(
            f"krum expected at least num_byzantine + 3 = {num_byzantine + 3} tasks, got {num_tasks}; "
            "lower num_byzantine."
        )
    if not 1 <= num_selected <= num_tasks:
        raise ValueError(f"krum expected num_selected from 1 to T = {num_tasks}, got {num_selected}.")
    gram = without_scale(leave_out(gram, present))
    squared, present = jnp.diagonal(gram), everyone(present, gram[0])
    distances = jnp.maximum(squared[:, None] + squared[None, :] - 2 * gram, 0)
    strangers = jnp.eye(num_tasks, dtype=bool) | ~present[None, :]
    others = jnp.sort(jnp.where(strangers, jnp.inf, distances), axis=1)
    count = jnp.sum(present, dtype=jnp.int32)
    num_neighbours = jnp.minimum(jnp.maximum(count - num_byzantine - 2, 1), count - 1)
    near = jnp.where(jnp.arange(num_tasks, dtype=jnp.int32) < num_neighbours, others, 0)
    ranks = jnp.argsort(jnp.argsort(jnp.where(present, jnp.sum(near, axis=1), jnp.inf)))
    selected = present & (ranks < num_selected)
    return selected.astype(gram.dtype) / number(selected, gram.dtype)


def krum(
    num_tasks: int | None = None,
    *,
    num_byzantine: int = 0,
    num_selected: int = 1,
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the gradients that have the closest neighbours.

    Args:
      num_tasks: T, see `aggregate`.
      num_byzantine: How many gradients may be anything.
      num_selected: How many are averaged; above one it is multi-Krum.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients, robust against `num_byzantine` arbitrary rows.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.krum(num_tasks=2, num_selected=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)))
      >>> state.weights
      Array([0.5, 0.5], dtype=float32)
    """
    return aggregate(
        partial(weights, num_byzantine=num_byzantine, num_selected=num_selected),
        num_tasks,
        axis_name=axis_name,
        nonfinite=nonfinite,
    )
