"""Decisions under `vmap`: one branch for all members of a population, so that a branch stays a branch."""

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


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
