"""The exact programs, judged in float64 against SciPy's NNLS on J itself."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import BENIGN, DEGENERATE, draw
from scipy.optimize import nnls as scipy_nnls

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import stacked

SIZES = (1, 2, 3, 8, 100)


def shortest(task_grads, num_simplex):
    """Return u* in float64, by NNLS on the rows of J scaled to length one and a row for Σα = 1."""
    rows = task_grads.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    if lengths[:num_simplex].min() == 0:
        return np.zeros(rows.shape[1])
    unit = np.where(lengths > 0, lengths, 1)
    penalty = np.where(np.arange(len(rows)) < num_simplex, lengths[:num_simplex].min() / unit, 0)
    matrix = np.concatenate([(rows / unit[:, None]).T, penalty[None]])
    target = np.zeros(len(matrix))
    target[-1] = 1
    x, _ = scipy_nnls(matrix, target, maxiter=100 * len(rows))
    weights = x / unit
    return (weights / weights[:num_simplex].sum()) @ rows


def simplex_sizes(num_tasks):
    return sorted({p for p in (1, 2, num_tasks - 1, num_tasks) if 1 <= p <= num_tasks})


def solve(task_grads, num_simplex):
    solution = mtl.solvers.min_norm(stacked.gram(jnp.asarray(task_grads)), num_simplex)
    return solution, np.asarray(solution.x, np.float64) @ task_grads.astype(np.float64)


@pytest.mark.parametrize("num_tasks", SIZES)
@pytest.mark.parametrize("jacobian", BENIGN)
def test_shortest_vector_of_a_hull_and_a_cone(jacobian, num_tasks):
    for num_simplex, seed in itertools.product(simplex_sizes(num_tasks), range(2)):
        task_grads = draw(jacobian, num_tasks, seed)
        solution, update = solve(task_grads, num_simplex)
        best = shortest(task_grads, num_simplex)
        rows = task_grads.astype(np.float64)
        cosines = rows @ update / (np.linalg.norm(rows, axis=1) * np.linalg.norm(update))
        assert update @ update <= (1 + 2e-6) * (best @ best), (num_simplex, seed)
        assert cosines.min() >= -1e-5, (num_simplex, seed)
        assert np.all(solution.x >= 0)
        assert abs(np.sum(solution.x[:num_simplex]) - 1) <= 1e-6
        assert solution.gap <= 1e-5
        assert solution.num_steps <= 2 * num_tasks + 30
        assert num_tasks > 2 or solution.num_steps == 0


@pytest.mark.parametrize("num_tasks", SIZES)
@pytest.mark.parametrize("jacobian", DEGENERATE)
def test_directions_that_float32_cannot_resolve_are_near_and_certified(jacobian, num_tasks):
    for num_simplex, seed in itertools.product(simplex_sizes(num_tasks), range(2)):
        task_grads = draw(jacobian, num_tasks, seed)
        solution, update = solve(task_grads, num_simplex)
        best = shortest(task_grads, num_simplex)
        longest = np.linalg.norm(task_grads.astype(np.float64), axis=1).max()
        assert np.all(np.isfinite(solution.x))
        if num_simplex == num_tasks:
            assert np.linalg.norm(update - best) <= 1e-3 * longest
            assert solution.gap <= 1e-5
        else:
            assert update @ update - best @ best <= 4e-6 * longest**2, (num_simplex, seed)
            assert solution.gap <= 1e-3


@pytest.mark.standard_promotion
@pytest.mark.parametrize(("num_tasks", "tolerance"), [(3, 1e-5), (100, 1e-5)])
def test_simplex_points_project_as_optax_does(num_tasks, tolerance):
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal(num_tasks).astype(np.float32)
        task_grads = x - np.eye(num_tasks, dtype=np.float32)
        weights = mtl.weightings.mgda(stacked.gram(jnp.asarray(task_grads)))
        expected = x - np.asarray(optax.projections.projection_simplex(jnp.asarray(x)))
        error = np.abs(np.asarray(weights) @ task_grads - expected).max()
        assert error <= tolerance * np.linalg.norm(task_grads, axis=1).max()


def exact_simplex_weights(rows):
    """Return the exact rational minimiser of ‖Σ αᵢgᵢ‖² over Δ, by trying every face."""
    gram = [[sum(a * b for a, b in zip(g, h, strict=True)) for h in rows] for g in rows]
    best = None
    for size in range(1, len(rows) + 1):
        for face in itertools.combinations(range(len(rows)), size):
            alpha = _solve_face(gram, face)
            if alpha is None or min(alpha) < 0:
                continue
            value = sum(alpha[a] * alpha[b] * gram[i][j] for a, i in enumerate(face) for b, j in enumerate(face))
            if best is None or value < best[0]:
                full = [Fraction(0)] * len(rows)
                for a, i in enumerate(face):
                    full[i] = alpha[a]
                best = (value, full)
    return best


def _solve_face(gram, face):
    """Solve Gα = μ1, Σα = 1 on a face by Gauss–Jordan elimination over the rationals."""
    size = len(face)
    table = [[*(gram[i][j] for j in face), Fraction(-1), Fraction(0)] for i in face]
    table.append([*[Fraction(1)] * size, Fraction(0), Fraction(1)])
    for column in range(size + 1):
        pivot = next((r for r in range(column, size + 1) if table[r][column]), None)
        if pivot is None:
            return None
        table[column], table[pivot] = table[pivot], table[column]
        table[column] = [value / table[column][column] for value in table[column]]
        for r in range(size + 1):
            if r != column:
                table[r] = [a - table[r][column] * b for a, b in zip(table[r], table[column], strict=True)]
    return [table[r][-1] for r in range(size)]


@pytest.mark.parametrize("num_tasks", [2, 4, 5])
def test_small_integer_problems_match_exact_rationals(num_tasks):
    rng = np.random.default_rng(num_tasks)
    for _ in range(5):
        task_grads = rng.integers(-5, 6, (num_tasks, num_tasks + 2))
        value, _ = exact_simplex_weights([[Fraction(int(v)) for v in row] for row in task_grads])
        _, update = solve(task_grads.astype(np.float32), num_tasks)
        longest = (task_grads**2).sum(axis=1).max()
        assert abs(update @ update - float(value)) <= 1e-6 * longest


@pytest.mark.parametrize("num_tasks", [1, 2, 8])
def test_nnls_matches_scipy(num_tasks):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        rows = (rng.standard_normal((num_tasks, 50)) * 10 ** rng.uniform(-4, 0, (num_tasks, 1))).astype(np.float32)
        target = rng.standard_normal(50).astype(np.float32)
        expected, _ = scipy_nnls(rows.T.astype(np.float64), target.astype(np.float64))
        gram, linear = stacked.gram(jnp.asarray(rows)), -jnp.dot(rows, target, precision="highest")
        solution = mtl.solvers.nnls(gram, linear)
        error = (np.asarray(solution.x, np.float64) - expected) @ rows.astype(np.float64)
        assert np.linalg.norm(error) <= 1e-5 * np.linalg.norm(target)
        assert solution.gap <= 1e-5
        assert num_tasks > 2 or solution.num_steps == 0


def test_an_unbounded_program_says_so():
    solution = mtl.solvers.nnls(jnp.diag(jnp.array([1.0, 0.0])), jnp.array([-1.0, -1.0]))
    assert solution.gap == jnp.inf
    np.testing.assert_array_equal(solution.x, [1, 0])


@pytest.mark.parametrize("num_simplex", [1, 2, None])
def test_input_that_is_not_finite_gives_nan_and_ends(num_simplex):
    for bad in (jnp.nan, jnp.inf):
        gram = jnp.eye(4).at[1, 2].set(bad)
        solution = mtl.solvers.min_norm(gram, num_simplex)
        assert np.all(np.isnan(solution.x))
        assert solution.gap == jnp.inf


def test_certificate_grows_with_the_distance_from_the_optimum():
    gram = stacked.gram(jnp.asarray(draw("gaussian", 8)))
    best = mtl.solvers.min_norm(gram).x
    gaps = [float(mtl.solvers.certificates.min_norm_gap(gram, (1 - t) * best + t / 8)) for t in (0.0, 0.3, 1.0)]
    assert gaps[0] < 1e-6 < gaps[1] < gaps[2]


def test_gap_bounds_the_distance_to_the_optimum():
    task_grads = draw("gaussian", 8).astype(np.float64)
    best = shortest(task_grads, 8)
    for seed in range(20):
        weights = np.random.default_rng(seed).dirichlet(np.ones(8)).astype(np.float32)
        gap = mtl.solvers.certificates.min_norm_gap(stacked.gram(jnp.asarray(task_grads, jnp.float32)), weights)
        distance = np.sum((weights @ task_grads - best) ** 2)
        assert distance <= float(gap) * (task_grads**2).sum(axis=1).max() * (1 + 1e-4)


def test_batched_solves_run_as_one_program():
    grams = jnp.stack([stacked.gram(jnp.asarray(draw("opposed", 8, seed))) for seed in range(16)])
    batched = jax.jit(jax.vmap(mtl.solvers.min_norm))(grams)
    for gram, x in zip(grams, batched.x, strict=True):
        np.testing.assert_allclose(mtl.solvers.min_norm(gram).x, x, atol=2e-6)


def test_float64_is_solved_in_float64():
    with jax.enable_x64(True):
        for jacobian in BENIGN:
            task_grads = draw(jacobian, 32).astype(np.float64)
            solution = mtl.solvers.min_norm(stacked.gram(jnp.asarray(task_grads)))
            update = np.asarray(solution.x) @ task_grads
            best = shortest(task_grads, 32)
            assert solution.x.dtype == jnp.float64
            assert update @ update <= (1 + 1e-12) * (best @ best)


def test_frank_wolfe_finishes_only_when_fully_corrective():
    gram = stacked.gram(jnp.asarray(draw("spread_4", 32)))
    exact = mtl.solvers.min_norm(gram)
    finished = mtl.solvers.frank_wolfe(gram, step="fully_corrective")
    value = lambda solution: float(solution.x @ (gram @ solution.x))
    assert value(finished) <= (1 + 1e-5) * value(exact)
    assert finished.num_steps <= 5 * 32 + 20
    for step in ("line_search", "1/(k+1)", "2/(k+2)"):
        crawling = mtl.solvers.frank_wolfe(gram, step=step, max_steps=100)
        assert value(crawling) > 1.01 * value(exact), step


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mtl.solvers.min_norm(jnp.ones((2, 3))), r"expected a Gram matrix of shape \(T, T\), got \(2, 3\)"),
        (lambda: mtl.solvers.min_norm(jnp.ones((2, 2), jnp.int32)), "expected a float32 or float64 Gram matrix"),
        (lambda: mtl.solvers.min_norm(jnp.eye(3), 4), "between 1 and the number of tasks, 3, got 4"),
        (lambda: mtl.solvers.min_norm(jnp.eye(3), 0), "between 1 and the number of tasks, 3, got 0"),
        (lambda: mtl.solvers.nnls(jnp.eye(3), jnp.ones(2)), r"got \(3, 3\) and \(2,\)"),
        (lambda: mtl.solvers.frank_wolfe(jnp.eye(3), step="best"), "expected step to be one of"),
        (lambda: mtl.solvers.frank_wolfe(jnp.eye(3), 1), "solves on the simplex of all 3 rows"),
    ],
)
def test_bad_input_is_one_clear_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
