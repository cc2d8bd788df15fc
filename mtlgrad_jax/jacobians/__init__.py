"""Ways to hold the Jacobian J; each answers `gram()` and `combine(w)`."""

from mtlgrad_jax.jacobians import shared_encoder, stacked
from mtlgrad_jax.jacobians.stacked import task_value_and_grad

__all__ = ["shared_encoder", "stacked", "task_value_and_grad"]
