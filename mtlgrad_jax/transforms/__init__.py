"""Optax transformations of stacked task gradients."""

from mtlgrad_jax.transforms._aggregate import AggregateState, aggregate
from mtlgrad_jax.transforms.accumulate import AccumulateState, accumulate
from mtlgrad_jax.transforms.bloop import bloop
from mtlgrad_jax.transforms.clip_task_norms import clip_task_norms
from mtlgrad_jax.transforms.cr_mogm import cr_mogm
from mtlgrad_jax.transforms.dwa import dwa
from mtlgrad_jax.transforms.excess_mtl import excess_mtl
from mtlgrad_jax.transforms.famo import famo
from mtlgrad_jax.transforms.geometric import geometric
from mtlgrad_jax.transforms.graddrop import graddrop
from mtlgrad_jax.transforms.gradnorm import gradnorm
from mtlgrad_jax.transforms.gradvac import gradvac
from mtlgrad_jax.transforms.gram_methods import (
    aligned_mtl,
    aux_projection,
    cagrad,
    conflict_free,
    constant,
    cosine_gate,
    dcgd,
    dualproj,
    dynamic_barrier,
    fairgrad,
    imtl_g,
    mean,
    nash_mtl,
    pcd,
    sum,
    upgrad,
)
from mtlgrad_jax.transforms.guard import GuardState, StepRecord, guard, guard_step
from mtlgrad_jax.transforms.guided_masking import guided_masking
from mtlgrad_jax.transforms.imtl_l import imtl_l
from mtlgrad_jax.transforms.inverse_norm import inverse_norm
from mtlgrad_jax.transforms.krum import krum
from mtlgrad_jax.transforms.loss_balanced import loss_balanced
from mtlgrad_jax.transforms.mgda import mgda
from mtlgrad_jax.transforms.moco import moco
from mtlgrad_jax.transforms.modo import modo
from mtlgrad_jax.transforms.momentum_conflict_free import momentum_conflict_free
from mtlgrad_jax.transforms.pcgrad import pcgrad
from mtlgrad_jax.transforms.primary_aux import primary_aux
from mtlgrad_jax.transforms.random_weights import random_weights
from mtlgrad_jax.transforms.relu_l2 import adam_relu_l2, relu_l2_project
from mtlgrad_jax.transforms.sdmgrad import sdmgrad
from mtlgrad_jax.transforms.si import si
from mtlgrad_jax.transforms.stch import stch
from mtlgrad_jax.transforms.trimmed_mean import trimmed_mean
from mtlgrad_jax.transforms.uncertainty import uncertainty

__all__ = [
    "AccumulateState",
    "AggregateState",
    "GuardState",
    "StepRecord",
    "accumulate",
    "adam_relu_l2",
    "aggregate",
    "aligned_mtl",
    "aux_projection",
    "bloop",
    "cagrad",
    "clip_task_norms",
    "conflict_free",
    "constant",
    "cosine_gate",
    "cr_mogm",
    "dcgd",
    "dualproj",
    "dwa",
    "dynamic_barrier",
    "excess_mtl",
    "fairgrad",
    "famo",
    "geometric",
    "graddrop",
    "gradnorm",
    "gradvac",
    "guard",
    "guard_step",
    "guided_masking",
    "imtl_g",
    "imtl_l",
    "inverse_norm",
    "krum",
    "loss_balanced",
    "mean",
    "mgda",
    "moco",
    "modo",
    "momentum_conflict_free",
    "nash_mtl",
    "pcd",
    "pcgrad",
    "primary_aux",
    "random_weights",
    "relu_l2_project",
    "sdmgrad",
    "si",
    "stch",
    "sum",
    "trimmed_mean",
    "uncertainty",
    "upgrad",
]
