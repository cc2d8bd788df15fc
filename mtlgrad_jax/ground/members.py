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
