"""Small dense convex programs: arrays in, solution and certificate out."""

from mtlgrad_jax.solvers import certificates
from mtlgrad_jax.solvers.alpha_fair import alpha_fair, fairness_gap
from mtlgrad_jax.solvers.frank_wolfe import frank_wolfe
from mtlgrad_jax.solvers.greedy_coordinate import greedy_coordinate
from mtlgrad_jax.solvers.max_min_in_ball import max_min_gap, max_min_in_ball
from mtlgrad_jax.solvers.min_norm import min_norm
from mtlgrad_jax.solvers.nnls import nnls
from mtlgrad_jax.solvers.refine import refine
from mtlgrad_jax.solvers.smoothed_minimum import smoothed_minimum
from mtlgrad_jax.solvers.softmax_descent import softmax_descent

__all__ = [
    "alpha_fair",
    "certificates",
    "fairness_gap",
    "frank_wolfe",
    "greedy_coordinate",
    "max_min_gap",
    "max_min_in_ball",
    "min_norm",
    "nnls",
    "refine",
    "smoothed_minimum",
    "softmax_descent",
]
