"""SoftAdapt: weight where a loss rises, or falls least."""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.grams import check_memory, reciprocal
from mtlgrad_jax.ground.logarithms import softmax_where
from mtlgrad_jax.ground.presence import everyone, only
from mtlgrad_jax.methods._extras import check_losses
from mtlgrad_jax.transforms.aggregate import aggregate
from mtlgrad_jax.typing import AxisName, Claims, Nonfinite, StatefulWeighting

CLAIMS = Claims("weight where the loss rises", keeps="PLZF", needs="LS", sums_to="1", costs="–")

Form = Literal["plain", "normalized", "loss_weighted"]
VARIANTS = get_args(Form)


class SoftadaptState(NamedTuple):
    """What `softadapt` remembers."""

    losses: jax.Array  # (T,), of the last call
    known: jax.Array  # (T,) bool, whether there was one that is finite


def weighting(*, beta: float = 0.1, variant: Form = "plain") -> StatefulWeighting:
    """Weigh tasks by the change of their losses since the last call.

    w = softmax(βs),   sᵢ = Lᵢ(t) − Lᵢ(t−1)

    Args:
      beta: β; positive for the tasks that do worst, negative for those that do best.
      variant: `"plain"`; `"normalized"` for s/Σ|s|, which no scale of all losses changes; `"loss_weighted"` for
        wᵢ ∝ Lᵢ exp(βsᵢ), of losses that are positive.

    Returns:
      A `typing.StatefulWeighting` that needs `losses`. The weights sum to one, whether tasks agree or not. A change
      that is not known, at first, of a task that was absent or of a loss that is not finite, is zero. The authors
      compare epochs, of which `every_k(softadapt(), steps_per_epoch)` compares the first losses; their code takes the
      slope from five of them.

    Raises:
      ValueError: If `variant` is unknown.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> weighting = mtl.weightings.softadapt(beta=1.0, variant="normalized")
      >>> state = weighting.init(2)
      >>> for losses in ([4.0, 4.0], [3.0, 1.0]):
      ...     weights, state = weighting.update(jnp.eye(2), state, losses=jnp.array(losses))
      >>> jnp.round(weights, 4)
      Array([0.6225, 0.3775], dtype=float32)

    References:
      Heydari et al., arXiv 1912.12355, section 3.1.
    """
    if variant not in VARIANTS:
        raise ValueError(f"expected variant to be one of {', '.join(VARIANTS)}, got {variant!r}.")

    def init(num_tasks):
        return SoftadaptState(jnp.zeros(num_tasks), jnp.zeros(num_tasks, bool))

    def update(gram, state, *, losses=None, present=None):
        check_memory(state.losses, gram)
        losses = check_losses(losses, gram, "softadapt")
        present, finite = everyone(present, losses), jnp.isfinite(losses)
        losses = only(losses, present & finite)
        known = present & finite & state.known
        change = only(losses / 2 - state.losses.astype(gram.dtype) / 2, known)  # halves: differences stay finite
        if variant == "normalized":
            change = change * reciprocal(jnp.sum(jnp.abs(change)))
        limit = jnp.finfo(gram.dtype).max / 8
        double = 1 if variant == "normalized" else 2
        logits = jnp.clip(jnp.asarray(beta * double, gram.dtype) * jnp.clip(change, -limit, limit), -limit, limit)
        if variant == "loss_weighted":
            logits, present = logits + jnp.log(jnp.where(losses > 0, losses, 1)), present & (losses > 0)
        told = SoftadaptState(losses.astype(state.losses.dtype), finite & everyone(present, losses))
        return softmax_where(logits, present), told

    return StatefulWeighting(init, update, reads_gram=False)


def softadapt(
    num_tasks: int | None = None,
    *,
    beta: float = 0.1,
    variant: Form = "plain",
    axis_name: AxisName = None,
    nonfinite: Nonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    """Follow the task gradients, with more weight where the loss rises, or falls least.

    Args:
      num_tasks: T, needed: the method keeps state; see `aggregate`.
      beta: Positive for the tasks that do worst, negative for those that do best.
      variant: `"plain"`, `"normalized"` or `"loss_weighted"`.
      axis_name: See `aggregate`.
      nonfinite: See `aggregate`.

    Returns:
      An Optax transformation of stacked task gradients that needs `tx.update(..., losses=losses)`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx, task_grads = mtl.softadapt(num_tasks=2), jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> update, state = tx.update(task_grads, tx.init(jnp.zeros(3)), losses=jnp.array([1.0, 4.0]))
      >>> state.weights
      Array([0.5, 0.5], dtype=float32)
    """
    return aggregate(weighting(beta=beta, variant=variant), num_tasks, axis_name=axis_name, nonfinite=nonfinite)
