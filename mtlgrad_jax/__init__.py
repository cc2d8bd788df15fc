"""Optax gradient transformations for training one network on several objectives.

    losses ──► J ──gram──► G = JJᵀ ──weighting──► w ──combine──► u = Jᵀw ──► optax
           jacobians        (T, T)   weightings   (T,)  jacobians   params-shaped
                                         │
                                      solvers

In a training step:

    tx = optax.chain(mtl.mgda(num_tasks=2), optax.adam(1e-3))
    losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)    # losses_fn(params) returns T losses
    updates, state = tx.update(task_grads, state, params)

A tour by purpose:

- **A method** in an Optax chain is `mtl.NAME(num_tasks)`. `mtl.methods.catalogue()`, printed, is the table of what each
  follows, promises, needs and costs.
- **Task gradients** for it come from `task_value_and_grad` (one function of all losses) or `separate_value_and_grad`
  (a function and a batch for each task).
- **A loop of your own** takes `descent_direction`, which stacks no gradients if `jacobians` has a better way.
- **Around a method**: `trunk_and_heads` with `shared_leaves` (aggregate the trunk only, each head keeps its own
  gradient), `accumulate` (micro-batches), `clip_task_norms` (before it), `for_tasks` and `freeze` (groups of
  parameters), `guard` and `guard_step` (the promise of a direction, made of the step that is taken),
  `relu_l2_project` and `adam_relu_l2` (weight decay without a coefficient).
- **Weights alone** are `weightings.NAME(gram)`, pure functions; `weightings.every_k`, `weightings.smoothed`,
  `weightings.normalized` and `weightings.on_log_losses` wrap any of them. `aggregate` makes an Optax transformation
  out of a weighting, yours too; `typing` says what it may ask for.
- **Programs** behind them: `solvers.min_norm`, `solvers.nnls` and others, solution and certificate out.
- **Many trade-offs at once**: `fronts.population`, and `fronts.rays`, `fronts.hypervolume`, `fronts.within`.
- **What happened**: `diagnostics.read(opt_state)`, `diagnostics.read_step(opt_state)`; `plots` draws it.

Methods, `diagnostics`, `fronts`, `plots`, `weightings` and most ways to hold J are imported when first asked for.

| symbol | in code      | shape                     | meaning                                             |
|--------|--------------|---------------------------|-----------------------------------------------------|
| T      | `num_tasks`  | int                       | number of tasks, static                             |
| J      | `task_grads` | leaves `(T, *param_shape)`| row i is the gradient of task i                     |
| G      | `gram`       | `(T, T)`                  | J Jᵀ, float32 or better                             |
| w      | `weights`    | `(T,)`                    | what a weighting returns                            |
| u      | `update`     | params                    | Jᵀw; an ascent direction, Optax negates it          |
| p      | `preference` | `(T,)`                    | how much each task matters; uniform, sums to one    |
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from mtlgrad_jax import jacobians as jacobians
from mtlgrad_jax import methods as methods
from mtlgrad_jax import solvers as solvers
from mtlgrad_jax import step as step
from mtlgrad_jax import transforms as transforms
from mtlgrad_jax import typing as typing
from mtlgrad_jax.descent import DescentInfo as DescentInfo
from mtlgrad_jax.descent import descent_direction as descent_direction
from mtlgrad_jax.ground.first_use import at_first_use as _at_first_use
from mtlgrad_jax.ground.first_use import public_files as _public_files
from mtlgrad_jax.jacobians.separate import separate_value_and_grad as separate_value_and_grad
from mtlgrad_jax.jacobians.shared_leaves import shared_leaves as shared_leaves
from mtlgrad_jax.jacobians.stacked import task_value_and_grad as task_value_and_grad
from mtlgrad_jax.transforms.accumulate import AccumulateState as AccumulateState
from mtlgrad_jax.transforms.accumulate import accumulate as accumulate
from mtlgrad_jax.transforms.aggregate import AggregateState as AggregateState
from mtlgrad_jax.transforms.aggregate import aggregate as aggregate
from mtlgrad_jax.transforms.clip_task_norms import clip_task_norms as clip_task_norms
from mtlgrad_jax.transforms.for_tasks import for_tasks as for_tasks
from mtlgrad_jax.transforms.freeze import freeze as freeze
from mtlgrad_jax.transforms.guard import GuardState as GuardState
from mtlgrad_jax.transforms.guard import guard as guard
from mtlgrad_jax.transforms.guard import guard_step as guard_step
from mtlgrad_jax.transforms.relu_l2 import adam_relu_l2 as adam_relu_l2
from mtlgrad_jax.transforms.relu_l2 import relu_l2_project as relu_l2_project
from mtlgrad_jax.transforms.trunk_and_heads import trunk_and_heads as trunk_and_heads
from mtlgrad_jax.typing import StepRecord as StepRecord

_LATER = [*_public_files(__path__), *methods.names()]  # rooms, and what each file of `methods` is named after
_NEED_EXTRAS = {"demo", "plots"}
__all__ = sorted({name for name in [*globals(), *_LATER] if name[0] != "_"} - {"TYPE_CHECKING", *_NEED_EXTRAS})  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from mtlgrad_jax import combinators as combinators
    from mtlgrad_jax import diagnostics as diagnostics
    from mtlgrad_jax import fronts as fronts
    from mtlgrad_jax import plots as plots
    from mtlgrad_jax import weightings as weightings
    from mtlgrad_jax.methods.aligned_mtl import aligned_mtl as aligned_mtl
    from mtlgrad_jax.methods.aux_projection import aux_projection as aux_projection
    from mtlgrad_jax.methods.bloop import bloop as bloop
    from mtlgrad_jax.methods.cagrad import cagrad as cagrad
    from mtlgrad_jax.methods.conflict_free import conflict_free as conflict_free
    from mtlgrad_jax.methods.constant import constant as constant
    from mtlgrad_jax.methods.cosine_gate import cosine_gate as cosine_gate
    from mtlgrad_jax.methods.cosmos import cosmos as cosmos
    from mtlgrad_jax.methods.cr_mogm import cr_mogm as cr_mogm
    from mtlgrad_jax.methods.dcgd import dcgd as dcgd
    from mtlgrad_jax.methods.dualproj import dualproj as dualproj
    from mtlgrad_jax.methods.dwa import dwa as dwa
    from mtlgrad_jax.methods.dynamic_barrier import dynamic_barrier as dynamic_barrier
    from mtlgrad_jax.methods.epo import epo as epo
    from mtlgrad_jax.methods.excess_mtl import excess_mtl as excess_mtl
    from mtlgrad_jax.methods.fairgrad import fairgrad as fairgrad
    from mtlgrad_jax.methods.famo import famo as famo
    from mtlgrad_jax.methods.geometric import geometric as geometric
    from mtlgrad_jax.methods.graddrop import graddrop as graddrop
    from mtlgrad_jax.methods.gradnorm import gradnorm as gradnorm
    from mtlgrad_jax.methods.gradvac import gradvac as gradvac
    from mtlgrad_jax.methods.guided_masking import guided_masking as guided_masking
    from mtlgrad_jax.methods.imtl_g import imtl_g as imtl_g
    from mtlgrad_jax.methods.imtl_l import imtl_l as imtl_l
    from mtlgrad_jax.methods.inverse_norm import inverse_norm as inverse_norm
    from mtlgrad_jax.methods.krum import krum as krum
    from mtlgrad_jax.methods.loss_balanced import loss_balanced as loss_balanced
    from mtlgrad_jax.methods.mean import mean as mean
    from mtlgrad_jax.methods.mgda import mgda as mgda
    from mtlgrad_jax.methods.moco import moco as moco
    from mtlgrad_jax.methods.modo import modo as modo
    from mtlgrad_jax.methods.momentum_conflict_free import momentum_conflict_free as momentum_conflict_free
    from mtlgrad_jax.methods.nash_mtl import nash_mtl as nash_mtl
    from mtlgrad_jax.methods.pbi import pbi as pbi
    from mtlgrad_jax.methods.pcd import pcd as pcd
    from mtlgrad_jax.methods.pcgrad import pcgrad as pcgrad
    from mtlgrad_jax.methods.primary_aux import primary_aux as primary_aux
    from mtlgrad_jax.methods.random_weights import random_weights as random_weights
    from mtlgrad_jax.methods.relobralo import relobralo as relobralo
    from mtlgrad_jax.methods.sdmgrad import sdmgrad as sdmgrad
    from mtlgrad_jax.methods.self_adaptive import self_adaptive as self_adaptive
    from mtlgrad_jax.methods.si import si as si
    from mtlgrad_jax.methods.softadapt import softadapt as softadapt
    from mtlgrad_jax.methods.stch import stch as stch
    from mtlgrad_jax.methods.sum import sum as sum
    from mtlgrad_jax.methods.trimmed_mean import trimmed_mean as trimmed_mean
    from mtlgrad_jax.methods.uncertainty import uncertainty as uncertainty
    from mtlgrad_jax.methods.upgrad import upgrad as upgrad
else:

    def _find(name):
        is_method = name in methods.names()
        return getattr(getattr(methods, name), name) if is_method else _import_module(f"{__name__}.{name}")

    __getattr__, __dir__ = _at_first_use(__name__, _LATER, _find)
