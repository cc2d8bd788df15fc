"""The α-fair program near opposition, beside Newton in float64 on the same Gram matrix."""

import jax.numpy as jnp
import numpy as np
from families import near_opposed

from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.solvers import alpha_fair


def newton_in_float64(gram):
    """Return w > 0 with Gw = 1/w, or None where the program has no bound."""
    gram = gram.astype(np.float64)
    weights = np.diagonal(gram) ** -0.5
    for _ in range(100):
        curvature = gram * np.outer(weights, weights) + np.eye(len(gram))
        if np.linalg.eigvalsh(curvature)[0] <= 0 or weights.max() > 1e7:
            return None
        change = np.linalg.solve(curvature, 1 - weights * (gram @ weights))
        weights = weights * (1 + change / max(1, -2 * change.min()))
    return weights if np.abs(weights * (gram @ weights) - 1).max() < 1e-6 else None


def test_gives_up_where_float64_on_the_same_gram_does():
    """Within a factor of two of the opposition: ours answers as float64 does, then the rounding of G decides."""
    answered = {}
    for eps in (3.5e-4, 1.75e-4):
        grams = [stacked.gram(jnp.asarray(near_opposed(8, eps, seed).astype(np.float32))) for seed in range(10)]
        answered[eps] = [(np.asarray(alpha_fair(gram).x), newton_in_float64(np.asarray(gram))) for gram in grams]
    for ours, expected in answered[3.5e-4]:
        np.testing.assert_allclose(ours, expected, rtol=2e-3)
    assert any(expected is None for _, expected in answered[1.75e-4])
    assert not any(expected is None and np.any(ours) for ours, expected in answered[1.75e-4])
