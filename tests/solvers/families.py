"""Jacobians on which exact solvers were seen to fail, and answers in float64 by a solver that nobody here wrote."""

import numpy as np
from scipy.optimize import nnls


def near_opposed(num_tasks, eps, seed, num_params=60):
    """Rows ±c + ε(dᵢ + e): what they agree on is ε times as long as they are."""
    rng = np.random.default_rng(seed)
    c, e = (v / np.linalg.norm(v) for v in rng.standard_normal((2, num_params)))
    own = rng.standard_normal((num_tasks, num_params))
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    sign = np.where(rng.random(num_tasks) < 0.5, 1, -1.0)[:, None]
    sign[0], sign[-1] = 1, -1
    return sign * c + eps * (own + e)


def gaussian(num_tasks, rng):
    return rng.standard_normal((num_tasks, 2 * num_tasks + 20))


def correlated(num_tasks, rng):
    return rng.standard_normal((1, 60)) + 0.3 * rng.standard_normal((num_tasks, 60))


def clusters(num_tasks, rng):
    centers = rng.standard_normal((3, 40))
    return centers[rng.integers(0, 3, num_tasks)] + 1e-2 * rng.standard_normal((num_tasks, 40))


def cone(num_tasks, rng):
    """All within a narrow cone about a direction."""
    return rng.standard_normal(40) * np.sqrt(40) + rng.standard_normal((num_tasks, 40))


def ties(num_tasks, rng):
    return rng.integers(-1, 2, (num_tasks, 2 * num_tasks)) + np.eye(num_tasks, 2 * num_tasks)


def kahan(num_tasks, rng):
    """A triangle whose rows are nearly dependent although no two are alike."""
    sine, cosine = np.sin(1.2), np.cos(1.2)
    del rng
    triangle = np.eye(num_tasks) - cosine * np.triu(np.ones((num_tasks, num_tasks)), 1)
    return sine ** np.arange(num_tasks)[:, None] * triangle


def duplicated(num_tasks, rng):
    return gaussian(num_tasks, rng)[rng.integers(0, (num_tasks + 1) // 2, num_tasks)]


def low_rank(num_tasks, rng):
    """Rank one to three, and a common direction."""
    rank = rng.integers(1, 4)
    rows = rng.standard_normal((num_tasks, rank)) @ rng.standard_normal((rank, 30))
    return rows + rng.standard_normal(30) * 3


def integers(num_tasks, rng):
    return rng.integers(-3, 4, (num_tasks, num_tasks + 3)).astype(float)


def spread(num_tasks, rng):
    return gaussian(num_tasks, rng) * 10 ** rng.uniform(-rng.integers(4, 13), 0, (num_tasks, 1))


FAMILIES = {
    f.__name__: f for f in (gaussian, correlated, clusters, cone, ties, kahan, duplicated, low_rank, integers, spread)
}
OPPOSED = {
    f"near_opposed_{eps:g}": lambda num_tasks, rng, eps=eps: near_opposed(num_tasks, eps, int(rng.integers(1 << 30)))
    for eps in (1e-2, 5e-3, 3e-3)
}


def draw(name, num_tasks, seed):
    return (FAMILIES | OPPOSED)[name](num_tasks, np.random.default_rng(seed)).astype(np.float32)


def exact_weights(rows, num_simplex):
    """Return the optimal weights in float64, by NNLS on unit rows and a row for Σα = 1."""
    lengths = np.linalg.norm(rows, axis=1)
    unit = np.where(lengths > 0, lengths, 1)
    penalty = np.where(np.arange(len(rows)) < num_simplex, lengths[:num_simplex].min() / unit, 0)
    if lengths[:num_simplex].min() == 0:
        return (np.arange(len(rows)) == lengths[:num_simplex].argmin()).astype(float)
    matrix = np.concatenate([(rows / unit[:, None]).T, penalty[None]])
    x, _ = nnls(matrix, np.eye(len(matrix))[-1], maxiter=1000 * len(rows))
    weights = x / unit
    return weights / weights[:num_simplex].sum()


def square_root(gram):
    """Return J with JJᵀ = G, in float64; negative eigenvalues are rounding."""
    lengths = np.sqrt(np.maximum(np.diagonal(gram).astype(np.float64), 0))
    unit = np.where(lengths > 0, lengths, 1)
    values, vectors = np.linalg.eigh(gram.astype(np.float64) / unit[:, None] / unit)
    return unit[:, None] * vectors * np.sqrt(np.maximum(values, 0))


def excess(rows, weights, num_simplex):
    """Return how much longer ‖u‖² is than the optimum, relative to it, and the optimum."""
    best = exact_weights(rows, num_simplex) @ rows
    update = np.asarray(weights, np.float64) @ rows
    return (update @ update - best @ best) / max(best @ best, np.finfo(float).tiny), best @ best


def simplex_sizes(num_tasks):
    return sorted({p for p in (1, 2, num_tasks // 2, num_tasks - 1, num_tasks) if p >= 1})
