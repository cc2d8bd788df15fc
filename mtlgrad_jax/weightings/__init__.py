"""Methods: a Gram matrix in, weights out, one file each."""

from mtlgrad_jax.weightings.aligned_mtl import aligned_mtl
from mtlgrad_jax.weightings.aux_projection import aux_projection
from mtlgrad_jax.weightings.cagrad import cagrad
from mtlgrad_jax.weightings.conflict_free import conflict_free
from mtlgrad_jax.weightings.constant import constant
from mtlgrad_jax.weightings.cosine_gate import cosine_gate
from mtlgrad_jax.weightings.dcgd import dcgd
from mtlgrad_jax.weightings.dualproj import dualproj
from mtlgrad_jax.weightings.dwa import dwa
from mtlgrad_jax.weightings.dynamic_barrier import dynamic_barrier
from mtlgrad_jax.weightings.every_k import every_k
from mtlgrad_jax.weightings.fairgrad import fairgrad
from mtlgrad_jax.weightings.famo import famo
from mtlgrad_jax.weightings.geometric import geometric
from mtlgrad_jax.weightings.gradnorm import gradnorm
from mtlgrad_jax.weightings.gradvac import gradvac
from mtlgrad_jax.weightings.guided_masking import guided_masking
from mtlgrad_jax.weightings.imtl_g import imtl_g
from mtlgrad_jax.weightings.imtl_l import imtl_l
from mtlgrad_jax.weightings.inverse_norm import inverse_norm
from mtlgrad_jax.weightings.keyed import keyed
from mtlgrad_jax.weightings.krum import krum
from mtlgrad_jax.weightings.loss_balanced import loss_balanced
from mtlgrad_jax.weightings.mean import mean
from mtlgrad_jax.weightings.mgda import mgda
from mtlgrad_jax.weightings.modo import modo
from mtlgrad_jax.weightings.nash_mtl import nash_mtl
from mtlgrad_jax.weightings.normalized import normalized
from mtlgrad_jax.weightings.pcd import pcd
from mtlgrad_jax.weightings.pcgrad import pcgrad
from mtlgrad_jax.weightings.primary_aux import primary_aux
from mtlgrad_jax.weightings.random_weights import random_weights
from mtlgrad_jax.weightings.sdmgrad import sdmgrad
from mtlgrad_jax.weightings.si import si
from mtlgrad_jax.weightings.smoothed import smoothed
from mtlgrad_jax.weightings.stch import stch
from mtlgrad_jax.weightings.sum import sum
from mtlgrad_jax.weightings.uncertainty import uncertainty
from mtlgrad_jax.weightings.upgrad import upgrad

__all__ = [
    "aligned_mtl",
    "aux_projection",
    "cagrad",
    "conflict_free",
    "constant",
    "cosine_gate",
    "dcgd",
    "dualproj",
    "dwa",
    "dynamic_barrier",
    "every_k",
    "fairgrad",
    "famo",
    "geometric",
    "gradnorm",
    "gradvac",
    "guided_masking",
    "imtl_g",
    "imtl_l",
    "inverse_norm",
    "keyed",
    "krum",
    "loss_balanced",
    "mean",
    "mgda",
    "modo",
    "nash_mtl",
    "normalized",
    "pcd",
    "pcgrad",
    "primary_aux",
    "random_weights",
    "sdmgrad",
    "si",
    "smoothed",
    "stch",
    "sum",
    "uncertainty",
    "upgrad",
]
