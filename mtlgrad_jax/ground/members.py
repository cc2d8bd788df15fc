"""Decisions under `vmap`: one branch for all members of a population, so that a branch stays a branch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from mtlgrad_jax.ground.leaves import choose


@custom_vmap
def any_member(flag: jax.Array) -> jax.Array:
    """Return a boolean scalar as it is; under `vmap`, whether it is true of any member, the same for all.

    `lax.cond` on a batched predicate runs both of its sides for every member. On this one it runs one side for all;
    where members differ, the caller chooses between old and new with the flag itself.
    """
    return flag


@any_member.def_vmap
def _any_member_rule(axis_size, in_batched, flag):
    del axis_size, in_batched  # a batched flag, the only way to get here
    return any_member(jnp.any(flag)), False


def rarely(flag: jax.Array, needed: Callable[..., Any], otherwise: Callable[..., Any], *operands: Any) -> Any:
    """Return `lax.cond(flag, needed, otherwise, *operands)`; under `vmap` nobody runs what no member needs.

    Members that do not need it keep the result of `otherwise`, which ought to cost nothing.
    """

    def for_those_who_need_it(*operands):
        return choose(flag, needed(*operands), otherwise(*operands))

    return lax.cond(any_member(flag), for_those_who_need_it, otherwise, *operands)


def changed_if(flag: jax.Array, change: Callable[[Any], Any], operand: Any) -> Any:
    """Return `lax.cond(flag, change, lambda operand: operand, operand)`, where a CPU leaves the operand where it lies.

    A branch that returns what it was given copies it. A loop that may end before its first turn does not; a TPU would
    lay out anew for it what `change` reads, so that there a branch stays a branch.
    """

    def in_place(flag, operand):
        turn = lambda carry: (carry[0] & False, change(carry[1]))
        return lax.while_loop(lambda carry: carry[0], turn, (flag, operand))[1]

    def copied(flag, operand):
        return rarely(flag, change, lambda operand: operand, operand)

    return lax.platform_dependent(flag, operand, cpu=in_place, default=copied)
