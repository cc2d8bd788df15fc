"""A population of members that are trained together, each to its own trade-off."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from mtlgrad_jax.jacobians.stacked import gram, task_value_and_grad
from mtlgrad_jax.typing import PyTree


class Members(NamedTuple):
    """K members, one along the first axis of every leaf."""

    params: PyTree  # leaves (K, *param_shape)
    state: PyTree  # of the transformation of each, leaves (K, ...)
    rays: jax.Array  # (K, T), or whatever tells members apart


class Population(NamedTuple):
    """A pair of pure functions, like an Optax transformation."""

    init: Callable[[PyTree, jax.Array], Members]  # (params, rays) -> members
    step: Callable[..., tuple[Members, jax.Array]]  # (members, *batch) -> (members, losses (K, T))


def population(
    losses_fn: Callable[..., Any],
    transform: Callable[[jax.Array], optax.GradientTransformation],
    *,
    weights: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Population:
    """Train many members at once, each to its own trade-off.

    A member is a `vmap` lane with its own parameters, optimiser state and ray; all see the same batch. `step` is a pure
    function: jit it, scan it, put a progress bar around it; `Members` is a pytree that any checkpoint takes. Members
    do not talk to each other, so over a mesh `jax.shard_map` of `step`, with the first axis of the members split, needs
    no collective; the methods then take `axis_name=()`, since what differs between devices is no piece of a whole.

    Args:
      losses_fn: `losses_fn(params, *batch)` returning losses of shape `(T,)`.
      transform: From a ray, shape `(T,)`, to the whole Optax transformation of that member, as in the example.
      weights: A method on the population, from losses `(K, T)` and Gram matrices `(K, T, T)` to the weights of all
        members `(K, T)`, for instance a `functools.partial` of `repelling_weights`. The transformation of a member then
        begins with `mtl.aggregate(lambda gram, *, weights: weights)`.

    Returns:
      A `Population`: `init(params, rays)` takes parameters of K members stacked along their first axis;
      `step(members, *batch)` returns the members after a step and their losses before it.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> def losses_fn(x):
      ...     return jnp.stack([jnp.sum((x - 1) ** 2), jnp.sum((x + 1) ** 2)])
      >>> pop = mtl.fronts.population(losses_fn, lambda ray: optax.chain(mtl.epo(ray=ray), optax.sgd(0.1)))
      >>> members = pop.init(jnp.zeros((5, 3)), mtl.fronts.rays(2, 5, margin=0.1))
      >>> for _ in range(100):
      ...     members, losses = jax.jit(pop.step)(members)
      >>> (losses / losses.sum(1, keepdims=True))[:, 0].tolist()
      [0.100, 0.300, 0.500, 0.700, 0.900]
    """
    evaluate = task_value_and_grad(losses_fn)

    def init(params, rays):
        state = jax.vmap(lambda params, ray: transform(ray).init(params))(params, rays)
        return Members(params, state, rays)

    def step(members, *batch):
        losses, task_grads = jax.vmap(lambda params: evaluate(params, *batch))(members.params)
        extras = {"losses": losses}
        if weights is not None:
            extras["weights"] = weights(losses, jax.vmap(gram)(task_grads))

        def move(params, state, ray, task_grads, extras):
            updates, state = transform(ray).update(task_grads, state, params, **extras)
            return optax.apply_updates(params, updates), state

        params, state = jax.vmap(move)(members.params, members.state, members.rays, task_grads, extras)
        return Members(params, state, members.rays), losses

    return Population(init, step)
