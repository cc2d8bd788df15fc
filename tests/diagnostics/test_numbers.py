"""The numbers against float64 NumPy on J itself, at the corners, and what they cost."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BENIGN, JACOBIANS, draw

import mtlgrad_jax as mtl
from mtlgrad_jax import diagnostics
from mtlgrad_jax.solvers.certificates import conflict_gap

SIZES = (1, 2, 5)
OF_GRAM = ("cosines", "conflicts", "relative_lengths", "magnitude_similarity")
OF_BOTH = ("progress", "alignment", "hurt_tasks")


@pytest.fixture(autouse=True)
def no_nan_is_ever_created(request):
    with jax.debug_nans("not_finite" not in request.node.name):
        yield


@jax.jit
def numbers(gram, weights):
    found = {name: getattr(diagnostics, name)(gram) for name in OF_GRAM}
    found |= {name: getattr(diagnostics, name)(gram, weights) for name in OF_BOTH}
    bound = diagnostics.stationarity(gram, weights)
    return found | {"bound": bound, **diagnostics.summarize(gram, weights)._asdict()}


def gram_of(task_grads):
    return mtl.jacobians.stacked.gram(jnp.asarray(task_grads))


def mixed_weights(num_tasks):
    return jnp.asarray(np.random.default_rng(1).uniform(-0.5, 1, num_tasks), jnp.float32)


def expected(task_grads, weights):
    """Return the same numbers by their definitions, for gradients of which none is zero."""
    rows, weights = np.asarray(task_grads, np.float64), np.asarray(weights, np.float64)
    lengths, update = np.linalg.norm(rows, axis=1), weights @ rows
    parts = np.abs(weights) * lengths
    convex = np.maximum(weights, 0) if np.any(weights > 0) else np.ones_like(weights)
    return {
        "cosines": rows @ rows.T / np.outer(lengths, lengths),
        "relative_lengths": lengths / lengths.max(),
        "magnitude_similarity": 2 * np.outer(lengths, lengths) / np.add.outer(lengths**2, lengths**2),
        "progress": rows @ update,
        "alignment": rows @ update / lengths / np.linalg.norm(update),
        "effective_tasks": parts.sum() ** 2 / (parts**2).sum(),
        "bound": np.linalg.norm(convex @ rows) / convex.sum() / lengths.max(),
    }


@pytest.mark.parametrize("num_tasks", SIZES)
@pytest.mark.parametrize("name", BENIGN)
def test_they_are_what_their_definitions_say(name, num_tasks):
    task_grads, weights = draw(name, num_tasks), mixed_weights(num_tasks)
    found = numbers(gram_of(task_grads), weights)
    for quantity, value in expected(task_grads, weights).items():
        tolerance = 2e-3 * np.max(np.abs(value)) if quantity == "progress" else 2e-3
        np.testing.assert_allclose(found[quantity], value, atol=tolerance, err_msg=quantity)
    found = jax.tree.map(np.asarray, found)
    sure = np.abs(found["cosines"]) > 1e-3
    np.testing.assert_array_equal(found["conflicts"][sure], found["cosines"][sure] < 0)
    assert (
        found["num_hurt"]
        == np.sum(found["hurt_tasks"])
        == np.sum(found["alignment"] < -diagnostics.resolution("float32"))
    )
    pairs = ~np.eye(num_tasks, dtype=bool)
    assert found["conflicting_pairs"] == pytest.approx(np.mean(found["conflicts"][pairs]) if num_tasks > 1 else 0)
    assert found["worst_cosine"] == np.min(found["cosines"][pairs], initial=1)
    assert found["least_similarity"] == np.min(found["magnitude_similarity"][pairs], initial=1)
    assert found["worst_alignment"] == np.min(found["alignment"])


@pytest.mark.parametrize("num_tasks", SIZES)
@pytest.mark.parametrize("name", JACOBIANS)
def test_they_are_defined_and_within_their_range_everywhere(name, num_tasks):
    gram = gram_of(draw(name, num_tasks))
    for weights in (mtl.weightings.mgda(gram), mixed_weights(num_tasks), jnp.zeros(num_tasks)):
        found = jax.tree.map(np.asarray, numbers(gram, weights))
        assert all(np.all(np.isfinite(value)) for value in found.values())
        for quantity in ("cosines", "alignment"):
            assert np.all(np.abs(found[quantity]) <= 1)
        for quantity in ("relative_lengths", "magnitude_similarity", "conflicting_pairs"):
            assert np.all((found[quantity] >= 0) & (found[quantity] <= 1))
        assert 0 <= found["effective_tasks"] <= num_tasks * (1 + 1e-6)
        assert 0 <= found["stationarity"] <= min(found["bound"] + 1e-3, 1 + 1e-6)


@pytest.mark.parametrize("num_tasks", SIZES)
def test_the_scale_of_gradients_and_weights_changes_nothing(num_tasks):
    task_grads, weights = draw("opposed", num_tasks), mixed_weights(num_tasks)
    once = jax.tree.map(np.asarray, numbers(gram_of(task_grads), weights))
    for exponent in (50, -50):  # 1e±15, and exact
        scale = 2.0**exponent
        again = numbers(gram_of(task_grads * scale), weights / scale)  # u as before, so the progress in units of J
        for quantity, value in once.items():
            np.testing.assert_array_equal(again[quantity], value * (scale if quantity == "progress" else 1), quantity)


def test_corners_have_the_documented_answers():
    zero = jax.tree.map(np.asarray, numbers(jnp.zeros((2, 2)), jnp.ones(2)))
    assert not any(np.any(zero[name]) for name in ("cosines", "alignment", "effective_tasks", "stationarity", "bound"))
    np.testing.assert_array_equal(zero["magnitude_similarity"], 1)
    one = jax.tree.map(np.asarray, numbers(jnp.full((1, 1), 4.0), jnp.ones(1)))
    assert one["worst_cosine"] == one["least_similarity"] == one["alignment"] == one["stationarity"] == 1
    assert not one["conflicting_pairs"] and one["effective_tasks"] == 1
    zero_row = jax.tree.map(np.asarray, numbers(jnp.diag(jnp.array([1.0, 0.0])), jnp.ones(2)))
    np.testing.assert_array_equal(zero_row["cosines"], np.diag([1.0, 0.0]))
    np.testing.assert_array_equal(zero_row["alignment"], [1, 0])
    assert zero_row["stationarity"] == zero_row["least_similarity"] == 0
    opposed = jax.tree.map(np.asarray, numbers(gram_of(np.float32([[1, 3], [-1, -3]])), jnp.ones(2)))
    assert opposed["conflicts"].sum() == 2 and opposed["stationarity"] == 0
    assert not np.any(opposed["alignment"]) and not opposed["num_hurt"]  # the update is zero: it hurts nobody


def test_an_update_that_the_gram_matrix_cannot_tell_from_zero_is_aligned_with_nobody():
    grams = jnp.stack([gram_of(draw("stationary", 5, seed)) for seed in range(20)])
    weights = jax.vmap(mtl.weightings.mgda)(grams)
    slopes = jnp.einsum("nij,nj->ni", grams, weights)
    assert jnp.any(jnp.sum(weights * slopes, axis=1) > 0)  # rounding leaves something that looks like an update
    assert not np.any(jax.vmap(diagnostics.alignment)(grams, weights))


def test_what_is_not_finite_is_said_and_hides_nothing():
    gram = gram_of(np.float32([[1, 0], [np.nan, 1]]))
    assert np.isnan(diagnostics.cosines(gram)[1]).all() and diagnostics.cosines(gram)[0, 0] == 1
    assert np.isnan(diagnostics.relative_lengths(gram)).all()
    for function in (diagnostics.alignment, diagnostics.effective_tasks, diagnostics.stationarity):
        assert np.isnan(function(gram, jnp.ones(2))).all()
    assert np.isnan(diagnostics.stationarity(gram))


@pytest.mark.parametrize("name", BENIGN)
def test_mgda_hurts_no_task(name):
    gram = gram_of(draw(name, 5))
    assert not numbers(gram, mtl.weightings.mgda(gram))["num_hurt"]


def test_the_sum_hurts_the_task_that_is_outvoted():
    gram = gram_of(np.float32([[1, 0], [1, 0], [-1, 0.5]]))
    np.testing.assert_array_equal(diagnostics.hurt_tasks(gram, jnp.ones(3)), [False, False, True])
    assert conflict_gap(gram, jnp.ones(3)) > 0.1


def test_stationarity_is_least_at_its_default_and_ignores_losses_scales_on_cosines():
    task_grads = draw("opposed", 5)
    gram = gram_of(task_grads)
    least = float(diagnostics.stationarity(gram))
    bound = jax.jit(jax.vmap(diagnostics.stationarity, (None, 0)))
    draws = np.random.default_rng(0).dirichlet(np.full(5, 0.5), 500).astype(np.float32)
    assert np.all(bound(gram, draws) >= least - 1e-4)
    shortest = np.linalg.norm(np.asarray(mtl.weightings.mgda(gram)) @ task_grads)
    assert least == pytest.approx(shortest / np.linalg.norm(task_grads, axis=1).max(), rel=1e-3)
    rescaled = gram_of(task_grads * np.float32([[1], [100], [1e-3], [1], [7]]))
    on_cosines = lambda gram: float(diagnostics.stationarity(diagnostics.cosines(gram)))
    assert on_cosines(gram) == pytest.approx(on_cosines(rescaled), rel=1e-3)
    assert diagnostics.stationarity(gram_of(draw("stationary", 5))) < 1e-3


def test_one_sentence_for_wrong_shapes():
    with pytest.raises(ValueError, match=r"expected a Gram matrix of shape \(T, T\), got \(3, 2, 2\)"):
        diagnostics.cosines(jnp.zeros((3, 2, 2)))
    for function in (diagnostics.progress, diagnostics.alignment, diagnostics.summarize):
        with pytest.raises(ValueError, match=r"expected weights of shape \(2,\), one per task, got \(3,\)"):
            function(jnp.eye(2), jnp.ones(3))


def test_logging_a_step_costs_no_product_beyond_tasks_by_tasks():
    num_tasks, num_params = 7, 1000
    tx = mtl.mgda(num_tasks)
    losses_fn = lambda params: jnp.stack([jnp.sum((params - i) ** 2) for i in range(num_tasks)])

    def step(params, state):
        _, task_grads = mtl.task_value_and_grad(losses_fn)(params)
        updates, state = tx.update(task_grads, state, params)
        return params - updates, state

    def logged_step(params, state):
        params, state = step(params, state)
        reading = diagnostics.read(state)
        return params, state, diagnostics.summarize(reading.gram, reading.weights)

    params = jnp.zeros(num_params)
    plain, logged = (products(jax.jit(f).lower(params, tx.init(params))) for f in (step, logged_step))
    extra = list(logged)
    for sizes in plain:
        extra.remove(sizes)
    assert any(num_params in sizes for sizes in plain) and extra
    assert all(max(sizes) <= num_tasks + 1 for sizes in extra)  # one more: the solver's bordered systems


def products(lowered):
    """Return the sizes of the operands of every matrix product in a program."""
    lines = [line for line in lowered.as_text().splitlines() if re.search(r"\bstablehlo\.dot", line)]
    return [tuple(map(int, re.findall(r"(\d+)x(?=[\dfx])", line.split(" : ")[-1]))) or (1,) for line in lines]
