"""Optax gradient transformations for training one network on several objectives.

    losses ──► J ──gram──► G = JJᵀ ──weighting──► w ──combine──► u = Jᵀw ──► optax
           jacobians        (T, T)   weightings   (T,)  jacobians   params-shaped
                                         │
                                      solvers

| symbol | in code      | shape                     | meaning                                             |
|--------|--------------|---------------------------|-----------------------------------------------------|
| T      | `num_tasks`  | int                       | number of tasks, static                             |
| J      | `task_grads` | leaves `(T, *param_shape)`| row i is the gradient of task i                     |
| G      | `gram`       | `(T, T)`                  | J Jᵀ, float32 or better                             |
| w      | `weights`    | `(T,)`                    | what a weighting returns                            |
| u      | `update`     | params                    | Jᵀw; an ascent direction, Optax negates it          |
| p      | `preference` | `(T,)`                    | how much each task matters; uniform, sums to one    |

Methods live twice: `mtl.weightings.NAME(gram)` is a pure function of the Gram matrix, `mtl.NAME()` the Optax
transformation made from it. `mtl.diagnostics` tells what a step did; `mtl.plots` draws it, and is imported when it
is first asked for.
"""

import importlib

from mtlgrad_jax import diagnostics, jacobians, solvers, transforms, typing, weightings
from mtlgrad_jax.descent import DescentInfo, descent_direction
from mtlgrad_jax.jacobians.separate_losses import separate_value_and_grad
from mtlgrad_jax.jacobians.stacked import task_value_and_grad
from mtlgrad_jax.transforms import (
    AccumulateState,
    AggregateState,
    GuardState,
    StepRecord,
    accumulate,
    adam_relu_l2,
    aggregate,
    aligned_mtl,
    aux_projection,
    bloop,
    cagrad,
    clip_task_norms,
    conflict_free,
    constant,
    cosine_gate,
    cr_mogm,
    dcgd,
    dualproj,
    dwa,
    dynamic_barrier,
    excess_mtl,
    fairgrad,
    famo,
    geometric,
    graddrop,
    gradnorm,
    gradvac,
    guard,
    guard_step,
    guided_masking,
    imtl_g,
    imtl_l,
    inverse_norm,
    krum,
    loss_balanced,
    mean,
    mgda,
    moco,
    modo,
    momentum_conflict_free,
    nash_mtl,
    pcd,
    pcgrad,
    primary_aux,
    random_weights,
    relu_l2_project,
    sdmgrad,
    si,
    stch,
    sum,
    trimmed_mean,
    uncertainty,
    upgrad,
)

__all__ = [
    "AccumulateState",
    "AggregateState",
    "DescentInfo",
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
    "descent_direction",
    "diagnostics",
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
    "jacobians",
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
    "separate_value_and_grad",
    "si",
    "solvers",
    "stch",
    "sum",
    "task_value_and_grad",
    "transforms",
    "trimmed_mean",
    "typing",
    "uncertainty",
    "upgrad",
    "weightings",
]


def __getattr__(name: str):
    """Import `plots` at its first use: it needs Matplotlib, and nothing else here does."""
    if name == "plots":
        return importlib.import_module("mtlgrad_jax.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
