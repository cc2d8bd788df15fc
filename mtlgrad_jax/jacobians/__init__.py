"""Ways to hold the Jacobian J; each answers `gram()`, `combine(w)` and `push(v)`."""

from mtlgrad_jax.jacobians import matrix_free, per_example, shared_encoder, stacked
from mtlgrad_jax.jacobians.separate_losses import separate_value_and_grad
from mtlgrad_jax.jacobians.stacked import task_value_and_grad

__all__ = [
    "matrix_free",
    "per_example",
    "separate_value_and_grad",
    "shared_encoder",
    "stacked",
    "task_value_and_grad",
]
