"""Optax wrappers that are no method."""

from mtlgrad_jax.transforms.accumulate import AccumulateState as AccumulateState
from mtlgrad_jax.transforms.accumulate import accumulate as accumulate
from mtlgrad_jax.transforms.aggregate import AggregateState as AggregateState
from mtlgrad_jax.transforms.aggregate import aggregate as aggregate
from mtlgrad_jax.transforms.clip_task_norms import clip_task_norms as clip_task_norms
from mtlgrad_jax.transforms.guard import GuardState as GuardState
from mtlgrad_jax.transforms.guard import guard as guard
from mtlgrad_jax.transforms.guard import guard_step as guard_step
from mtlgrad_jax.transforms.relu_l2 import adam_relu_l2 as adam_relu_l2
from mtlgrad_jax.transforms.relu_l2 import relu_l2_project as relu_l2_project
from mtlgrad_jax.transforms.trunk_and_heads import trunk_and_heads as trunk_and_heads
