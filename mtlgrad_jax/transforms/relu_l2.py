"""L2 regularisation without its coefficient: ½‖θ‖² as the auxiliary task."""

import jax
import jax.numpy as jnp
import optax

from mtlgrad_jax.ground.leaves import at_least_single, contract, shapes, widest

SCOPES = ("tree", "leaf")


def relu_l2_project(*, scope: str = "tree") -> optax.GradientTransformation:
    """Change an update just enough that the step does not lengthen the parameters.

    ½‖θ‖² is the auxiliary task of `primary_aux` and θ its gradient: a projection onto the half-space of
    directions u with ⟨u,θ⟩ ≥ 0. There is no coefficient to tune. Placed before the optimiser's
    preconditioner it is coupled, as L2 is; between it and the learning rate it is decoupled, as AdamW is
    (`adam_relu_l2`). It must come before the learning rate, which turns the sign.

    u = g + (−⟨g,θ⟩)₊/‖θ‖² · θ

    Args:
      scope: `"tree"` for one inner product over all parameters, `"leaf"` for one per leaf. To leave out
        biases and norms, wrap it in `optax.masked`.

    Returns:
      An `optax.GradientTransformation` that needs `params`. θ = 0 leaves the update as it is.

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
        groups = [[index] for index in range(len(leaves))] if scope == "leaf" else [list(range(len(leaves)))]
        projected = list(leaves)
        for group in groups:
            group = [index for index in group if jnp.issubdtype(leaves[index].dtype, jnp.inexact)]
            if group:
                share = _share([leaves[index] for index in group], [thetas[index] for index in group])
                for index in group:
                    projected[index] = _add(leaves[index], share, thetas[index])
        return jax.tree.unflatten(treedef, projected), state

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
) -> optax.GradientTransformation:
    """Adam with decoupled L2 regularisation that has no coefficient.

    The place of AdamW's weight decay, taken by `relu_l2_project`: after Adam's preconditioner and before
    the learning rate.

    Args:
      learning_rate: A number or an Optax schedule.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      eps: Added outside the square root, as in `optax.adam`.
      eps_root: Added inside the square root.
      scope: `"tree"` or `"leaf"`, see `relu_l2_project`.
      mask: Which parameters are regularised, a tree of booleans or a function of the parameters, as in
        `optax.adamw`; all by default.

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
    project = relu_l2_project(scope=scope)
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root),
        project if mask is None else optax.masked(project, mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def _check_like(updates, params):
    own, found = ((jax.tree.structure(t), [jnp.shape(leaf) for leaf in jax.tree.leaves(t)]) for t in (params, updates))
    if found != own:
        raise ValueError(
            f"relu_l2_project expected one gradient shaped like the parameters {shapes(params)}, got "
            f"{shapes(updates)}; put the aggregation before it in optax.chain."
        )


def _share(gradients, thetas):
    """Return (−⟨g,θ⟩)₊/‖θ‖² over a list of leaves."""
    dtype = widest(gradients)
    thetas = [theta.astype(g.dtype) for g, theta in zip(gradients, thetas, strict=True)]
    along = sum(contract(g, theta, 0).astype(dtype) for g, theta in zip(gradients, thetas, strict=True))
    length = sum(contract(theta, theta, 0).astype(dtype) for theta in thetas)
    return jnp.where(length > 0, jnp.maximum(-along, 0) / jnp.where(length > 0, length, 1), 0)


def _add(gradient, share, theta):
    wide = at_least_single(gradient.dtype)
    return (gradient.astype(wide) + share.astype(wide) * theta.astype(wide)).astype(gradient.dtype)
