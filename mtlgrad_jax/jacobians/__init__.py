"""Ways to hold the Jacobian J; each answers `gram()` and `combine(w)`."""

from mtlgrad_jax.jacobians import automatic, matrix_free, per_example, shared_encoder, stacked, structured
from mtlgrad_jax.jacobians.separate_losses import separate_value_and_grad
from mtlgrad_jax.jacobians.stacked import task_value_and_grad

__all__ = [
    "automatic",
    "matrix_free",
    "per_example",
    "separate_value_and_grad",
    "shared_encoder",
    "stacked",
    "structured",
    "task_value_and_grad",
]
