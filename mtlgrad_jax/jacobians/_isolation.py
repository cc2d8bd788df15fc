"""Keep what is wrong with one task out of the gradients of the others.

Reverse mode sends a seed of zero through the head of every task that is not asked for. Where a head has an infinite
derivative (0/0, the root or the norm of zero, the logarithm of zero) 0·∞ = NaN comes back and enters the trunk. So the
backward pass is read as a program: as long as a value belongs to one task it is computed once, for a seed of one; where
it meets another task, or leaves, it is multiplied by the seed, and a seed of zero gives zero whatever the derivative.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core

from mtlgrad_jax.jacobians._ownership import (
    MIXED,
    Owner,
    Owners,
    is_program_of_several,
    outputs_of,
    owners_of,
    size_at_meetings,
)
from mtlgrad_jax.jacobians._parameter_order import in_parameter_order, product_of_rows
from mtlgrad_jax.typing import PyTree


def isolated(pull_back: Callable[[jax.Array], PyTree], losses: jax.Array) -> Callable[[jax.Array], PyTree]:
    """Return s ↦ Jᵀs in which a task with sᵢ = 0 contributes zero, whatever its derivatives.

    Tasks that go through one `lax.scan`, `shard_map` or kernel together are kept apart up to there, not inside.

    Args:
      pull_back: Linear, from `(T,)` to a tree; what `jax.vjp` returns.
      losses: Shape `(T,)`, of which only shape, type and mesh axes count.

    Returns:
      The same map. Mapped over several seeds it runs the heads once for all of them, unless what they hand to
      the trunk takes more room than one gradient: then a loop over seeds runs them for each.
    """
    program, shapes = jax.make_jaxpr(pull_back, return_shape=True)(losses)
    jaxpr = in_parameter_order(program.jaxpr)
    tasks: Owners = [Owner(0 if losses.shape[0] > 1 else None, tuple(range(losses.shape[0])))]
    is_small = _is_known_to_fit(size_at_meetings(jaxpr, tasks), shapes)

    def pull(seed):
        ones = jnp.ones_like(losses)
        if not is_small:  # what depends on the seed cannot be moved out of a loop over seeds
            ones, seed = lax.optimization_barrier((ones, seed))
        values, owners = _run(jaxpr, program.consts, tasks, seed, [ones])
        return jax.tree.unflatten(jax.tree.structure(shapes), _meet(values, owners, seed))

    return pull


def _is_known_to_fit(size, gradient):
    try:
        return bool(size <= sum(leaf.size for leaf in jax.tree.leaves(gradient)))
    except core.InconclusiveDimensionOperation:  # an exported program for any size
        return False


def _run(
    jaxpr: core.Jaxpr,
    consts: Sequence[jax.Array],
    owners: Sequence[Owner | None],
    seed: jax.Array,
    arguments: Sequence[jax.Array],
) -> tuple[list[jax.Array], Owners]:
    """Run a backward pass; return its results and who owns them, those still owned for a seed of one."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))
    found = dict(zip(jaxpr.invars, owners, strict=True))

    def read(variables):
        return [var.val if isinstance(var, core.Literal) else known[var] for var in variables]

    for eqn in jaxpr.eqns:
        values, own = read(eqn.invars), owners_of(eqn.invars, found)
        results_own = outputs_of(eqn, own)
        with eqn.ctx.manager, jax.named_scope(str(eqn.source_info.name_stack)):
            if is_program_of_several(eqn, own):
                results = _enter(eqn, tuple(own), seed, values)
            else:
                results = _apply(eqn, _meet(values, own, seed) if MIXED in results_own else values, own)
        known.update(zip(eqn.outvars, results, strict=True))
        found.update(zip(eqn.outvars, results_own, strict=True))
    return read(jaxpr.outvars), owners_of(jaxpr.outvars, found)


def _meet(values, owners, seed):
    """Multiply what tasks own by their seeds; a seed of zero gives zero, also times NaN."""

    def meet(value, owner):
        if owner in (None, MIXED):
            return value
        shape = [len(owner.tasks) if axis == owner.axis else 1 for axis in range(value.ndim)]
        own = _seeds_of(owner.tasks, seed).reshape(shape)
        return jnp.where(own != 0, value * own.astype(value.dtype), jnp.zeros_like(value))

    return list(map(meet, values, owners))


def _seeds_of(tasks, seed):
    if tasks == tuple(range(seed.shape[0])):
        return seed
    parts = [seed[:1] * 0 if task is None else lax.slice(seed, (task,), (task + 1,)) for task in tasks]
    return jnp.concatenate(parts)


def _apply(eqn, values, owners):
    if eqn.primitive.name == "dot_general" and owners[0] is None and owners[1] is not None:
        left, right = values
        return [product_of_rows(left, right, eqn.params)]
    bound = eqn.primitive.get_bind_params(eqn.params)
    subprograms, params = bound if isinstance(bound, tuple) else ((), bound)  # before jax 0.10 a pair
    results = eqn.primitive.bind(*subprograms, *values, **params)
    return results if eqn.primitive.multiple_results else [results]


def _enter(eqn, owners, seed, values):
    """Run a program inside the program, compiled or rematerialised as it was."""
    inner = eqn.params["jaxpr"]
    if isinstance(inner, core.ClosedJaxpr):
        return _compiled(inner.jaxpr, owners)(inner.consts, seed, values)
    again = jax.make_jaxpr(lambda seed, *values: _run(inner, (), owners, seed, values)[0])(seed, *values)
    return eqn.primitive.bind(*again.consts, seed, *values, **{**eqn.params, "jaxpr": again.jaxpr})


@lru_cache(maxsize=128)  # outside of `jax.jit` the same program comes again at every step
def _compiled(jaxpr, owners):
    return jax.jit(lambda consts, seed, values: _run(jaxpr, consts, owners, seed, values)[0])
