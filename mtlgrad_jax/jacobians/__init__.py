"""Ways to hold the Jacobian J; each answers `gram()`, `combine(w)` and `push(v)`, and is made by a `linearize`."""

from typing import TYPE_CHECKING, Literal, get_args

from mtlgrad_jax.ground.first_use import at_first_use as _at_first_use
from mtlgrad_jax.ground.first_use import public_files as _public_files
from mtlgrad_jax.jacobians import separate as separate
from mtlgrad_jax.jacobians import stacked as stacked
from mtlgrad_jax.jacobians.separate import separate_value_and_grad as separate_value_and_grad
from mtlgrad_jax.jacobians.shared_leaves import shared_leaves as shared_leaves
from mtlgrad_jax.jacobians.stacked import task_value_and_grad as task_value_and_grad

Way = Literal["stacked", "matrix_free", "structured", "auto", "shared_encoder", "per_example", "separate"]
WAYS = {way: "automatic" if way == "auto" else way for way in get_args(Way)}  # the file with its `linearize`

if TYPE_CHECKING:
    from mtlgrad_jax.jacobians import automatic as automatic
    from mtlgrad_jax.jacobians import matrix_free as matrix_free
    from mtlgrad_jax.jacobians import per_example as per_example
    from mtlgrad_jax.jacobians import shared_encoder as shared_encoder
    from mtlgrad_jax.jacobians import structured as structured
else:
    __getattr__, __dir__ = _at_first_use(__name__, _public_files(__path__))
