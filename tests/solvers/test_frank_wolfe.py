"""Frank–Wolfe: the articles' iteration, how slow it is, and the variant that finishes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlgrad_jax import solvers


def averaged_smoothed_minimum(task_grads, start, num_steps):
    """Article 8896, equation (11), on vectors: u ← (k·u + g_τ)/(k + 1), τ = argmin ⟨gᵢ,u⟩."""
    u, trace = start, []
    for k in range(num_steps):
        tau = np.argmin(task_grads @ u)
        u = (k * u + task_grads[tau]) / (k + 1)
        trace.append(u)
    return np.stack(trace)


@pytest.mark.parametrize("seed", range(5))
def test_fixed_step_is_the_averaged_smoothed_minimum_iterate_by_iterate(seed):
    task_grads = np.random.default_rng(seed).integers(-8, 9, (5, 7)).astype(float)  # exact ties break alike
    gram = jnp.asarray(task_grads @ task_grads.T, jnp.float32)
    start = task_grads[np.argmin(np.sum(task_grads**2, axis=1))]
    expected = averaged_smoothed_minimum(task_grads, start, 30)
    for k in range(1, 31):
        solution = solvers.frank_wolfe(gram, step="1/(k+1)", max_steps=k)
        if solution.num_steps < k:
            break  # it met the optimum
        np.testing.assert_allclose(np.asarray(solution.x) @ task_grads, expected[k - 1], atol=1e-4)
    assert k > 10


def test_it_crawls_on_orthogonal_gradients_and_its_corrective_variant_does_not():
    """On J = I an iterate with k active rows is at least 1/k − 1/T away."""
    num_tasks = 32
    gram = jnp.eye(num_tasks)
    for k in (2, 5, 15):
        x = solvers.frank_wolfe(gram, max_steps=k).x
        num_active = jnp.sum(x > 0)
        assert num_active <= k + 1
        assert x @ x - 1 / num_tasks >= 1 / num_active - 1 / num_tasks - 1e-6
    np.testing.assert_allclose(solvers.frank_wolfe(gram, step="fully_corrective").x, 1 / num_tasks, rtol=1e-5)


@pytest.mark.parametrize("step", ["line_search", "2/(k+2)", "1/(k+1)"])
def test_a_thousand_steps_leave_a_gap_that_the_exact_answer_does_not(step):
    """The default has to be exact: Frank–Wolfe's gap is visible, the exact solver's is rounding error."""
    gaps, exact = [], []
    for seed in range(10):
        task_grads = np.random.default_rng(seed).standard_normal((16, 20))
        gram = jnp.asarray(task_grads @ task_grads.T, jnp.float32)
        gaps.append(float(solvers.frank_wolfe(gram, step=step).gap))
        exact.append(float(solvers.min_norm(gram).gap))
    assert np.median(gaps) > 1e-5
    assert max(exact) < 1e-6


@pytest.mark.parametrize("num_tasks", [1, 3, 24])
def test_fully_corrective_agrees_with_the_exact_solver(num_tasks):
    task_grads = np.random.default_rng(num_tasks).standard_normal((num_tasks, num_tasks + 3))
    gram = jnp.asarray(task_grads @ task_grads.T, jnp.float32)
    solution = solvers.frank_wolfe(gram, step="fully_corrective")
    assert solution.gap < 2e-6
    np.testing.assert_allclose(
        np.asarray(solution.x) @ task_grads, np.asarray(solvers.min_norm(gram).x) @ task_grads, atol=1e-3
    )


def test_line_search_never_lengthens_the_direction():
    task_grads = np.random.default_rng(0).standard_normal((6, 8))
    gram = jnp.asarray(task_grads @ task_grads.T, jnp.float32)
    points = [solvers.frank_wolfe(gram, max_steps=k).x for k in range(20)]
    lengths = np.array([float(x @ gram @ x) for x in points])
    assert np.all(np.diff(lengths) <= 1e-6)
    assert lengths[-1] < 0.9 * lengths[0]


def test_the_certificate_stops_it():
    gram = jnp.eye(8)
    loose = solvers.frank_wolfe(gram, step="2/(k+2)", tolerance=0.1)
    tight = solvers.frank_wolfe(gram, step="2/(k+2)", tolerance=0.01)
    assert loose.gap <= 0.1
    assert tight.gap <= 0.01
    assert loose.num_steps < tight.num_steps < 1000


@pytest.mark.parametrize("kwargs", [{"num_simplex": 2}, {"step": "1/k"}])
def test_bad_input_is_explained(kwargs):
    with pytest.raises(ValueError, match="frank_wolfe solves|expected step"):
        solvers.frank_wolfe(jnp.eye(3), **kwargs)


def test_vmap_agrees_with_single_calls():
    rows = np.random.default_rng(0).standard_normal((4, 5, 7)).astype(np.float32)
    grams = jnp.einsum("bip,bjp->bij", rows, rows, precision="highest")
    batched = jax.vmap(lambda gram: solvers.frank_wolfe(gram, max_steps=25).x)(grams)
    single = jnp.stack([solvers.frank_wolfe(gram, max_steps=25).x for gram in grams])
    np.testing.assert_allclose(batched, single, atol=1e-5)
