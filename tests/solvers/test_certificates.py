"""Certificates in the units of the direction are never better than the truth, and see every wrong answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BENIGN, DEGENERATE
from cases import draw as draw_case
from families import FAMILIES, OPPOSED, draw, exact_weights, near_opposed

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.solvers.certificates import min_norm_gap, relative_gap, worst_alignment

ROUNDING = 1e-6
certify = jax.jit(
    lambda gram, weights, num_simplex: (worst_alignment(gram, weights), relative_gap(gram, weights, num_simplex))
)


def truth(rows, weights, num_simplex):
    rows = rows.astype(np.float64)
    update = np.asarray(weights, np.float64) @ rows
    lengths = np.linalg.norm(rows, axis=1)
    if not update.any():
        return 0, 0
    best = exact_weights(rows, num_simplex) @ rows
    cosines = rows[lengths > 0] @ update / lengths[lengths > 0] / np.linalg.norm(update)
    return cosines.min(), 1 - (best @ best) / (update @ update)


def assert_honest(rows, weights, num_simplex):
    gram = stacked.gram(jnp.asarray(rows))
    cosine, gap = certify(gram, weights, num_simplex)
    true_cosine, true_gap = truth(rows, weights, num_simplex)
    assert cosine <= true_cosine + ROUNDING
    assert gap >= true_gap - ROUNDING
    return cosine, gap


def test_short_tasks_count_as_much_as_long_ones():
    for short in (1e-2, 1e-3, 1e-4):
        rows = np.array([[1, 0, 0], [0, short, 0], [0, -0.9 * short, np.sqrt(0.19) * short]], np.float32)
        wrong = jnp.array([0.0, 1.0, 0.0])
        cosine, gap = assert_honest(rows, wrong, 3)
        assert cosine < -0.89 and gap > 0.9
        gram = stacked.gram(jnp.asarray(rows))
        cosine, gap = assert_honest(rows, mtl.solvers.min_norm(gram).x, 3)
        assert cosine > 0 and gap < 1e-4
    assert min_norm_gap(gram, wrong) < 1e-7  # which is why it is not evidence


@pytest.mark.parametrize("name", [*BENIGN, *DEGENERATE, *FAMILIES, *OPPOSED])
def test_no_answer_and_no_wrong_answer_is_flattered(name):
    rng = np.random.default_rng(0)
    make = draw if name in FAMILIES | OPPOSED else draw_case
    for seed in range(2):
        rows = make(name, 8, seed)
        for num_simplex in (1, 4, 8):
            gram = stacked.gram(jnp.asarray(rows))
            assert_honest(rows, mtl.solvers.min_norm(gram, num_simplex).x, num_simplex)
            wrong = rng.dirichlet(np.full(8, 0.5)) * np.where(np.arange(8) < num_simplex, 1, rng.integers(0, 3, 8))
            assert_honest(rows, jnp.asarray(wrong / wrong[:num_simplex].sum(), jnp.float32), num_simplex)


def test_the_record_holds_what_a_user_means():
    rows = jnp.asarray([[1, 0, 0], [0, 1e-4, 0], [0, -0.9e-4, np.sqrt(0.19) * 1e-4]], jnp.float32)
    wrong = mtl.aggregate(lambda gram: jnp.array([0.0, 1.0, 0.0]), 3)
    for tx in (mtl.mgda(3), wrong):
        state = tx.update(rows, tx.init(rows[0]))[1]
        assert (state.worst_alignment < -0.89, state.relative_gap > 0.9) == (tx is wrong, tx is wrong)
        assert state.worst_alignment == worst_alignment(state.gram, state.weights)
        logged = mtl.diagnostics.scalars(state)
        np.testing.assert_allclose(logged["relative_gap"], state.relative_gap, atol=1e-6)
        assert (logged["worst_alignment"] < -0.89) == (tx is wrong)
    assert jax.tree.map(lambda leaf: leaf[None], state).relative_gap.shape == (1,)
    assert mtl.sum(3).init(rows[0]).worst_alignment is None  # it reads no Gram matrix


def test_good_answers_are_certified_and_unknown_ones_are_not():
    for name in ("gaussian", "spread_4", "spread_12", "correlated", "duplicated"):
        for num_simplex in (1, 4, 8):
            rows = draw_case(name, 8, 0)
            cosine, gap = assert_honest(
                rows, mtl.solvers.min_norm(stacked.gram(jnp.asarray(rows)), num_simplex).x, num_simplex
            )
            assert cosine > -1e-5 and gap < 1e-4, (name, num_simplex)
    rows = near_opposed(8, 1e-4, 0).astype(np.float32)
    cosine, gap = assert_honest(rows, mtl.solvers.min_norm(stacked.gram(jnp.asarray(rows))).x, 8)
    assert cosine == -1 and gap == 1
