"""The weights of every method under its name: a pure function of a Gram matrix, or of options if it has memory.

`mtl.weightings.NAME(gram)` is what the Optax transformation `mtl.NAME()` applies; `mtl.methods.catalogue()` is the
table of all. Methods that need the rows of J have no weights of their own. Any weighting can be wrapped: `every_k`
(reuse the weights), `smoothed` (average them over steps), `on_average_gram` (average what they are computed from),
`normalized` (gradients of unit length, or of a power of it), `on_log_losses` (logarithms of the losses, with their
gradients); `keyed` gives a random one its keys.
"""

from typing import TYPE_CHECKING

from mtlgrad_jax import methods
from mtlgrad_jax.combinators.every_k import every_k
from mtlgrad_jax.combinators.keyed import keyed
from mtlgrad_jax.combinators.normalized import normalized
from mtlgrad_jax.combinators.on_average_gram import on_average_gram
from mtlgrad_jax.combinators.on_log_losses import on_log_losses
from mtlgrad_jax.combinators.smoothed import smoothed
from mtlgrad_jax.ground.first_use import at_first_use

__all__ = [
    "aligned_mtl",
    "aux_projection",
    "cagrad",
    "conflict_free",
    "constant",
    "cosine_gate",
    "cosmos",
    "dcgd",
    "dualproj",
    "dwa",
    "dynamic_barrier",
    "epo",
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
    "on_average_gram",
    "on_log_losses",
    "pbi",
    "pcd",
    "pcgrad",
    "primary_aux",
    "random_weights",
    "relobralo",
    "sdmgrad",
    "self_adaptive",
    "si",
    "smoothed",
    "softadapt",
    "stch",
    "sum",
    "uncertainty",
    "upgrad",
]

if TYPE_CHECKING:
    from mtlgrad_jax.methods.aligned_mtl import weights as aligned_mtl
    from mtlgrad_jax.methods.aux_projection import weights as aux_projection
    from mtlgrad_jax.methods.cagrad import weights as cagrad
    from mtlgrad_jax.methods.conflict_free import weights as conflict_free
    from mtlgrad_jax.methods.constant import weights as constant
    from mtlgrad_jax.methods.cosine_gate import weights as cosine_gate
    from mtlgrad_jax.methods.cosmos import weights as cosmos
    from mtlgrad_jax.methods.dcgd import weights as dcgd
    from mtlgrad_jax.methods.dualproj import weights as dualproj
    from mtlgrad_jax.methods.dwa import weighting as dwa
    from mtlgrad_jax.methods.dynamic_barrier import weights as dynamic_barrier
    from mtlgrad_jax.methods.epo import weights as epo
    from mtlgrad_jax.methods.fairgrad import weights as fairgrad
    from mtlgrad_jax.methods.famo import weighting as famo
    from mtlgrad_jax.methods.geometric import weights as geometric
    from mtlgrad_jax.methods.gradnorm import weighting as gradnorm
    from mtlgrad_jax.methods.gradvac import weighting as gradvac
    from mtlgrad_jax.methods.guided_masking import weights as guided_masking
    from mtlgrad_jax.methods.imtl_g import weights as imtl_g
    from mtlgrad_jax.methods.imtl_l import weighting as imtl_l
    from mtlgrad_jax.methods.inverse_norm import weights as inverse_norm
    from mtlgrad_jax.methods.krum import weights as krum
    from mtlgrad_jax.methods.loss_balanced import weights as loss_balanced
    from mtlgrad_jax.methods.mean import weights as mean
    from mtlgrad_jax.methods.mgda import weights as mgda
    from mtlgrad_jax.methods.modo import weighting as modo
    from mtlgrad_jax.methods.nash_mtl import weights as nash_mtl
    from mtlgrad_jax.methods.pbi import weights as pbi
    from mtlgrad_jax.methods.pcd import weighting as pcd
    from mtlgrad_jax.methods.pcgrad import weights as pcgrad
    from mtlgrad_jax.methods.primary_aux import weights as primary_aux
    from mtlgrad_jax.methods.random_weights import weights as random_weights
    from mtlgrad_jax.methods.relobralo import weighting as relobralo
    from mtlgrad_jax.methods.sdmgrad import weighting as sdmgrad
    from mtlgrad_jax.methods.self_adaptive import weighting as self_adaptive
    from mtlgrad_jax.methods.si import weights as si
    from mtlgrad_jax.methods.softadapt import weighting as softadapt
    from mtlgrad_jax.methods.stch import weights as stch
    from mtlgrad_jax.methods.sum import weights as sum
    from mtlgrad_jax.methods.uncertainty import weighting as uncertainty
    from mtlgrad_jax.methods.upgrad import weights as upgrad
else:

    def _find(name):
        """Return the `weights` or the `weighting` of a method; here, in messages and for `pickle` it has its name."""
        file = getattr(methods, name)
        function = file.weights if hasattr(file, "weights") else file.weighting
        function.__name__ = function.__qualname__ = name
        function.__module__ = __name__
        return function

    __getattr__, __dir__ = at_first_use(__name__, __all__, _find)
