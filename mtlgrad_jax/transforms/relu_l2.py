"""L2 regularisation without its coefficient: ½‖θ‖² as the auxiliary task."""

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.leaves import is_inexact, shapes
from mtlgrad_jax.transforms._projection import project_rows

SCOPES = ("tree", "leaf")


def relu_l2_project(
    *, scope: str = "tree", axis_name: str | tuple[str, ...] | None = None
) -> optax.GradientTransformation:
    """Change an update just enough that the step does not lengthen the parameters.

    ½‖θ‖² is the auxiliary task of `primary_aux` and θ its gradient: a projection onto the half-space of
    directions u with ⟨u,θ⟩ ≥ 0. There is no coefficient to tune. Placed before the optimiser's
    preconditioner it is coupled, as L2 is; between it and the learning rate it is decoupled, as AdamW is
    (`adam_relu_l2`). It must come before the learning rate, which turns the sign.

    u = g + (−⟨g,θ⟩)₊/‖θ‖² · θ

    Args:
      scope: `"tree"` for one inner product over all parameters, `"leaf"` for one per leaf. To leave out
        biases and norms, wrap it in `optax.masked`.
      axis_name: See `aggregate`.

    Returns:
      An `optax.GradientTransformation` that needs `params`. θ = 0 leaves the update as it is. It is `guard` with
      θ as the one protected row.

    Raises:
      ValueError: If `scope` is unknown; in `update`, without `params`, or if the update is not shaped like them.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.relu_l2_project()
      >>> params = jnp.array([1.0, 0.0])
      >>> tx.update(jnp.array([-2.0, 3.0]), tx.init(params), params)[0]
      Array([0., 3.], dtype=float32)

    References:
      Su, scientific-spaces 8907 (10)–(11), whose formula lacks the final θ.
    """
    if scope not in SCOPES:
        raise ValueError(f"expected scope to be one of {', '.join(SCOPES)}, got {scope!r}.")

    def update(updates, state, params=None):
        if params is None:
            raise ValueError(
                "relu_l2_project expected params, got None; call tx.update(updates, state, params), "
                "as Flax's TrainState.apply_gradients does."
            )
        _check_like(updates, params)
        leaves, treedef = jax.tree.flatten(updates)
        thetas = jax.tree.leaves(params)
        floating = [index for index, leaf in enumerate(leaves) if is_inexact(leaf)]
        for group in [[index] for index in floating] if scope == "leaf" else [floating] * bool(floating):
            rows = [thetas[index].astype(leaves[index].dtype)[None] for index in group]
            step = [leaves[index] for index in group]
            projected, _ = project_rows(rows, step, jnp.ones(1, bool), axis_name=axis_name)
            for index, leaf in zip(group, projected, strict=True):
                leaves[index] = leaf
        return jax.tree.unflatten(treedef, leaves), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def adam_relu_l2(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    scope: str = "tree",
    mask=None,
    axis_name: str | tuple[str, ...] | None = None,
) -> optax.GradientTransformation:
    """Adam with decoupled L2 regularisation that has no coefficient.

    The place of AdamW's weight decay, taken by `relu_l2_project`: after Adam's preconditioner and before
    the learning rate.

    Args:
      learning_rate: A number or an Optax schedule.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added outside the square root, as in `optax.adam`, in the units of the gradient.
      eps_root: Added inside the square root.
      scope: `"tree"` or `"leaf"`, see `relu_l2_project`.
      mask: Which parameters are regularised, a tree of booleans or a function of the parameters, as in
        `optax.adamw`; all by default.
      axis_name: See `aggregate`.

    Returns:
      An `optax.GradientTransformation` that needs `params`.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> tx = mtl.adam_relu_l2(0.1)
      >>> params = jnp.array([1.0, 0.0])
      >>> tx.update(jnp.array([-2.0, 3.0]), tx.init(params), params)[0]
      Array([-0. , -0.1], dtype=float32)

    References:
      Su, scientific-spaces 8907 (10)–(11); Loshchilov & Hutter, arXiv 1711.05101, for decoupling.
    """
    project_on_shorter = relu_l2_project(scope=scope, axis_name=axis_name)
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root),
        project_on_shorter if mask is None else optax.masked(project_on_shorter, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def _check_like(updates, params):
    own, found = ((jax.tree.structure(t), [jnp.shape(leaf) for leaf in jax.tree.leaves(t)]) for t in (params, updates))
    if found != own:
        raise ValueError(
            f"relu_l2_project expected one gradient shaped like the parameters {shapes(params)}, got "
            f"{shapes(updates)}; put the aggregation before it in optax.chain."
        )
