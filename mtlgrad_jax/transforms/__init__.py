"""Optax transformations of stacked task gradients."""

from mtlgrad_jax.transforms._aggregate import AggregateState, aggregate
from mtlgrad_jax.transforms.guided_masking import guided_masking
from mtlgrad_jax.transforms.inverse_norm import inverse_norm
from mtlgrad_jax.transforms.mgda import mgda
from mtlgrad_jax.transforms.primary_aux import primary_aux
from mtlgrad_jax.transforms.relu_l2 import adam_relu_l2, relu_l2_project

__all__ = [
    "AggregateState",
    "adam_relu_l2",
    "aggregate",
    "guided_masking",
    "inverse_norm",
    "mgda",
    "primary_aux",
    "relu_l2_project",
]
