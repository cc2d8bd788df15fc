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
transformation made from it.
"""

from mtlgrad_jax import jacobians, solvers, transforms, typing, weightings
from mtlgrad_jax.jacobians.stacked import task_value_and_grad
from mtlgrad_jax.transforms import (
    AggregateState,
    adam_relu_l2,
    aggregate,
    guided_masking,
    inverse_norm,
    mgda,
    primary_aux,
    relu_l2_project,
)

__all__ = [
    "AggregateState",
    "adam_relu_l2",
    "aggregate",
    "guided_masking",
    "inverse_norm",
    "jacobians",
    "mgda",
    "primary_aux",
    "relu_l2_project",
    "solvers",
    "task_value_and_grad",
    "transforms",
    "typing",
    "weightings",
]
