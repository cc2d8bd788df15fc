"""Methods: a Gram matrix in, weights out, one file each.

The catalogue, under the names of the Optax factories (`mtl.NAME`); those that need the rows live in `transforms` only.
*Keeps*: C hurts no task, A no auxiliary; P treats tasks alike; L linear in the scale of each gradient; Z zero only
where a combination with all weights positive vanishes; all follow tasks that agree. *Needs*, besides G: R rows of J,
L losses, S state, K key, X gradients of a second batch. *Sum*: of the weights when all tasks agree on a gradient g and
a loss L, once averages have settled; λ stands for `strength`. *Cost*: besides reading J twice, and, where gradients are
counted, the memory of the state.

| method                 | what it follows                      | keeps | needs | sum              | cost            |
|------------------------|--------------------------------------|-------|-------|------------------|-----------------|
| mgda                   | shortest convex combination          | CP    |       | 1                | program         |
| primary_aux            | primary that hurts no auxiliary      | A     |       | 1                | program         |
| mean                   | equal weights                        | PLZ   |       | 1                | –               |
| sum                    | equal weights                        | PLZ   |       | T                | –               |
| constant               | fixed weights                        | LZ    |       | Σw               | –               |
| upgrad                 | mean of gradients freed of conflicts | CPLZ  |       | 1                | T programs      |
| dualproj               | mean gradient made to hurt no task   | CPZ   |       | 1                | program         |
| pcgrad                 | sum of gradients projected pairwise  | LZ    | K     | T                | T² projections  |
| gradvac                | cosines raised to their usual value  | Z     | SK    | T                | T² projections  |
| graddrop               | one sign per coordinate, at random   |       | RK    | T                | pass over J     |
| cagrad                 | best worst case near the mean        | PZ    |       | 1 + c            | program         |
| nash_mtl               | Nash bargain                         | CP    |       | min(√T, 1)/‖g‖   | Newton          |
| fairgrad               | α-fair shares                        | CP    |       | √T/‖g‖           | Newton          |
| imtl_g                 | equal projections on all gradients   | P     |       | 1                | T×T solve       |
| aligned_mtl            | nearest orthogonal gradients         |       |       | 1                | T×T eigen       |
| conflict_free          | equal angles with all gradients      | P     |       | T                | T×T solve       |
| momentum_conflict_free | the same, one gradient per step      |       | RS    | T                | T + 2 gradients |
| dcgd                   | sum of two, moved into the dual cone |       |       | T                | closed form     |
| cosine_gate            | auxiliaries that agree with primary  |       |       | 1 + λ(T − 1)     | closed form     |
| aux_projection         | auxiliaries without opposing parts   | Z     |       | 1 + λ(T − 1)     | closed form     |
| dynamic_barrier        | auxiliaries at the primary's rate    |       |       | max(1, λ(T − 1)) | closed form     |
| pcd                    | primary, and a share for the rest    |       | S     | 1                | program         |
| bloop                  | auxiliaries across the mean primary  |       | RS    | 1                | 1 gradient      |
| krum                   | gradients with closest neighbours    |       |       | 1                | T² log T        |
| trimmed_mean           | coordinate mean without extremes     |       | R     | 1                | pass over J     |
| random_weights         | softmax of noise                     | LZ    | K     | 1                | –               |
| inverse_norm           | unit gradients                       | PZ    |       | T/‖g‖            | closed form     |
| loss_balanced          | gradients of log L of one length     | Z     | RLS   | T/L              | T gradients     |
| gradnorm               | learned weights that balance lengths | Z     | LS    | T                | –               |
| moco                   | MGDA on averaged gradients           |       | RS    | 1                | T gradients     |
| modo                   | MGDA without the bias of one batch   |       | SX    | 1                | second batch    |
| sdmgrad                | MGDA with a pull towards the mean    |       | SX    | 1                | second batch    |
| excess_mtl             | weight where most is left to gain    |       | RS    | 1                | T gradients     |
| cr_mogm                | any weights, averaged over steps     |       | S     | 1                | program         |
| uncertainty            | learned inverse variances            | LZ    | LS    | T/2              | –               |
| dwa                    | weight where the loss falls slowly   | LZ    | LS    | T                | –               |
| geometric              | geometric mean of the losses         | LZ    | L     | 1                | –               |
| imtl_l                 | learned scales that make losses one  | LZ    | LS    | T                | –               |
| stch                   | smooth maximum of the losses         | LZ    | L     | 1/T              | –               |
| si                     | sum of log losses                    | LZ    | L     | T/L              | –               |
| famo                   | equal relative progress              | LZ    | LS    | 1                | –               |

Any weighting can be wrapped: `every_k` (reuse the weights), `smoothed` (average them over steps), `normalized`
(gradients of unit length); `keyed` gives a random one its keys.
"""

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
