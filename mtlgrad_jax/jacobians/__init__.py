"""Ways to hold the Jacobian J; each answers `gram()`, `combine(w)` and `push(v)`, and is made by a `linearize`."""

from mtlgrad_jax.jacobians import automatic as automatic
from mtlgrad_jax.jacobians import matrix_free as matrix_free
from mtlgrad_jax.jacobians import per_example as per_example
from mtlgrad_jax.jacobians import separate as separate
from mtlgrad_jax.jacobians import shared_encoder as shared_encoder
from mtlgrad_jax.jacobians import stacked as stacked
from mtlgrad_jax.jacobians import structured as structured
from mtlgrad_jax.jacobians.separate import separate_value_and_grad as separate_value_and_grad
from mtlgrad_jax.jacobians.shared_leaves import shared_leaves as shared_leaves
from mtlgrad_jax.jacobians.stacked import task_value_and_grad as task_value_and_grad

WAYS = {
    "stacked": stacked.linearize,
    "matrix_free": matrix_free.linearize,
    "structured": structured.linearize,
    "auto": automatic.linearize,
    "shared_encoder": shared_encoder.linearize,
    "per_example": per_example.linearize,
    "separate": separate.linearize,
}
