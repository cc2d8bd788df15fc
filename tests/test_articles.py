"""Every item that the two articles describe, one test each, and the corrections of them.

Articles: scientific-spaces 8896 ([A2], parallel tasks) and 8907 ([A3], primary and auxiliary tasks).
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtlgrad_jax as mtl
from mtlgrad_jax import solvers, weightings
from mtlgrad_jax.jacobians import shared_encoder

STALLING = jnp.array([[-1.0, 0.0], [1.0, -1.0], [1.0, 0.0]])


def gaussian(num_tasks, num_params, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((num_tasks, num_params)), jnp.float32)


def gram_of(task_grads):
    return jnp.matmul(task_grads, task_grads.T, precision="highest")


def test_item_01_inverse_norm_is_scale_free_and_safe_for_two_tasks_only():
    rows = gaussian(2, 3)
    direction = lambda rows: weightings.inverse_norm(gram_of(rows)) @ rows
    np.testing.assert_allclose(direction(rows * jnp.array([[1e4], [1e-3]])), direction(rows), rtol=1e-4)
    for seed in range(50):
        rows = gaussian(2, 3, seed)
        assert np.all(rows @ direction(rows) > -1e-5)
    three = jnp.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.5]])
    assert three[2] @ direction(three) < -0.5  # the third is outvoted
    np.testing.assert_array_equal(weightings.inverse_norm(jnp.zeros((2, 2))), 0)
    tx = mtl.inverse_norm()
    for size in (1e-30, 1.0, 1e30):  # unit vectors, also where squares leave float32
        update, _ = tx.update(size * jnp.array([[3.0, 4.0], [0.0, -2.0], [0.0, 0.0]]), tx.init(jnp.zeros(2)))
        np.testing.assert_allclose(update, [0.6, -0.2], rtol=1e-5)


def test_item_02_the_optimum_raises_the_worst_gain_to_its_own_squared_length():
    """max_u min_i ⟨gᵢ,u⟩ − ½‖u‖², at whose optimum min_i ⟨gᵢ,u⟩ = ‖u‖²."""
    rows = gaussian(5, 8)
    worst = lambda u: np.min(rows @ u) - 0.5 * u @ u
    best = weightings.mgda(gram_of(rows)) @ rows
    np.testing.assert_allclose(np.min(rows @ best), best @ best, rtol=1e-4)
    for nudge in gaussian(100, 8, seed=1):
        assert worst(best + 0.1 * nudge) < worst(best)
    stationary = jnp.array([[1.0, 0.0], [-2.0, 0.0]])
    np.testing.assert_allclose(weightings.mgda(gram_of(stationary)) @ stationary, 0, atol=1e-6)


def test_item_03_the_smoothed_minimum_satisfies_its_equation_and_its_limit_is_frank_wolfe():
    rows = gaussian(4, 6)
    gram, sharpness = gram_of(rows), 20.0
    u = solvers.smoothed_minimum(gram, sharpness=sharpness).x @ rows
    response = jax.nn.softmax(-sharpness / jnp.max(jnp.diagonal(gram)) * (rows @ u)) @ rows
    np.testing.assert_allclose(u, response, atol=1e-4)
    limit = solvers.smoothed_minimum(gram, sharpness=jnp.inf, iteration="averaged", max_steps=9).x
    np.testing.assert_allclose(limit, solvers.frank_wolfe(gram, step="1/(k+1)", max_steps=9).x, atol=1e-6)


def test_item_04_the_dual_of_two_tasks_is_the_foot_of_the_altitude():
    for seed in range(20):
        g, h = gaussian(2, 3, seed)
        share = jnp.clip((h - g) @ h / ((g - h) @ (g - h)), 0, 1)
        expected = share * g + (1 - share) * h
        np.testing.assert_allclose(weightings.mgda(gram_of(jnp.stack([g, h]))) @ jnp.stack([g, h]), expected, atol=1e-5)


def test_item_05_correction_frank_wolfe_is_not_accurate_enough_to_be_the_default():
    """★ On J = I it is 1/k − 1/T away after k steps; the default and the corrective variant are exact."""
    num_tasks = 64
    rows = jnp.eye(num_tasks)
    excess = lambda solution: float(solution.x @ solution.x) - 1 / num_tasks
    assert excess(solvers.frank_wolfe(rows, max_steps=8)) >= 1 / 9 - 1 / num_tasks - 1e-6
    assert excess(solvers.frank_wolfe(rows, step="fully_corrective")) < 1e-6
    grams = jax.vmap(gram_of)(jnp.stack([gaussian(16, 20, seed) for seed in range(10)]))
    certificate = jax.vmap(solvers.certificates.min_norm_gap)
    assert np.median(jax.vmap(solvers.frank_wolfe)(grams).gap) > 1e-5  # after a thousand steps
    assert np.max(certificate(grams, jax.vmap(weightings.mgda)(grams))) < 1e-6


def test_item_06_the_unconstrained_form_reaches_the_same_point():
    rows = gaussian(4, 6)
    gram = gram_of(rows)
    solution = solvers.softmax_descent(gram)
    np.testing.assert_allclose(solution.x @ rows, solvers.min_norm(gram).x @ rows, atol=0.02)


def test_item_07_the_gram_matrix_is_all_that_a_method_sees():
    """⟨gᵢ, Jᵀα⟩ = (Gα)ᵢ, so a rotation of the parameters changes nothing but the update's frame."""
    rows = gaussian(4, 6)
    rotation = jnp.linalg.qr(gaussian(6, 6, seed=1))[0]
    alpha = weightings.mgda(gram_of(rows))
    np.testing.assert_allclose(gram_of(rows) @ alpha, rows @ (alpha @ rows), atol=1e-4)
    tx = mtl.mgda()
    turn = lambda x: jnp.matmul(x, rotation, precision="highest")
    update, _ = tx.update(rows, tx.init(rows[0]))
    turned, _ = tx.update(turn(rows), tx.init(rows[0]))
    np.testing.assert_allclose(turned, turn(update), atol=1e-4)


def diagonal_encoder(stretch, *at_h):
    rows = jnp.array(at_h)
    return shared_encoder.linearize(
        lambda theta: jnp.array(stretch) * theta, lambda heads, h: rows @ h, (jnp.zeros(2), None)
    )[1]


def test_item_08_the_shared_encoder_minimises_a_bound_with_one_pull_back():
    jac = diagonal_encoder([2.0, 1.0], [1.0, -2.0], [1.0, 1.0])
    np.testing.assert_allclose(jac.gram(), [[5, -1], [-1, 2]])
    weights = weightings.mgda(jac.gram())
    np.testing.assert_allclose(weights, [1 / 3, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(jac.combine(weights)[0], [2, 0], atol=1e-6)


def test_item_08_correction_the_bound_is_not_exact_although_the_encoder_is_invertible():
    """★ No conflict at H, a conflict at θ, and `verify` says so."""
    jac = diagonal_encoder([3.0, 1.0], [1.0, 2.0], [-1.0, 1.0])
    cosines = shared_encoder.verify(jac, weightings.mgda(jac.gram()))
    assert np.min(cosines.at_representation) > 0.5
    assert np.min(cosines.at_parameters) < -0.1
    x, y, metric = np.array([1.0, -2.0]), np.array([1.0, 1.0]), np.diag([3.0, 1.0])
    assert x @ y < 0 < x @ metric @ y


def test_item_09_the_primary_is_projected_onto_what_hurts_no_auxiliary():
    for seed in range(5):
        rows = gaussian(4, 6, seed)
        u = weightings.primary_aux(gram_of(rows)) @ rows
        assert np.min(rows[1:] @ u) > -1e-4
        gain = lambda v, rows=rows: rows[0] @ v - 0.5 * v @ v
        for nudge in gaussian(50, 6, seed=seed + 100):
            candidate = weightings.primary_aux(gram_of(jnp.concatenate([(u + nudge)[None], rows[1:]])))
            feasible = candidate @ jnp.concatenate([(u + nudge)[None], rows[1:]])
            assert gain(feasible) <= gain(u) + 1e-4


def test_item_10_one_auxiliary_has_a_closed_form():
    for seed in range(10):
        g, h = gaussian(2, 3, seed)
        share = max(-(g @ h), 0) / (h @ h)
        np.testing.assert_allclose(weightings.primary_aux(gram_of(jnp.stack([g, h]))), [1, share], atol=1e-5)


def test_item_11_correction_the_articles_iteration_stalls_and_the_repaired_one_does_not():
    """★ It stops at λ = (½,½), u = (0,−½); the optimum is λ = (0,1), u = 0."""
    gram = gram_of(STALLING)
    article = solvers.greedy_coordinate(gram, rule="article")
    np.testing.assert_allclose(article.x, [1, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(article.x @ STALLING, [0, -0.5], atol=1e-6)
    repaired = solvers.greedy_coordinate(gram)
    np.testing.assert_allclose(repaired.x, [1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(weightings.primary_aux(gram) @ STALLING, 0, atol=1e-5)
    assert repaired.gap < 1e-5 < 0.1 < article.gap


def test_item_12_the_mixed_program_contains_both():
    rows = gaussian(6, 8)
    gram = gram_of(rows)
    np.testing.assert_allclose(weightings.primary_aux(gram, num_primary=6), weightings.mgda(gram), atol=1e-5)
    for num_primary in (2, 4):
        weights = weightings.primary_aux(gram, num_primary=num_primary)
        np.testing.assert_allclose(jnp.sum(weights[:num_primary]), 1, rtol=1e-5)
        u = weights @ rows
        assert np.min(rows[num_primary:] @ u) > -1e-4
        np.testing.assert_allclose(np.min(rows[:num_primary] @ u), u @ u, atol=1e-4)


def test_item_13_both_columns_of_the_comparison_table_are_one_solver():
    """Simplex and orthant, parallel and primary/auxiliary: `min_norm` with p from T to 1."""
    gram = gram_of(gaussian(5, 7))
    for num_simplex, weighting in ((5, weightings.mgda), (1, weightings.primary_aux)):
        solution = solvers.min_norm(gram, num_simplex=num_simplex)
        np.testing.assert_allclose(weighting(gram), solution.x, atol=1e-6)
        assert solution.gap < 1e-6


def test_item_14_the_shared_encoder_serves_primary_and_auxiliary_tasks():
    jac = diagonal_encoder([1.0, 1.0], [2.0, 0.0], [-1.0, 1.0])
    update, _ = jac.combine(weightings.primary_aux(jac.gram()))
    np.testing.assert_allclose(update, [1, 1], rtol=1e-6)


def l2_step(tx, params, grads):
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    return updates


def dot(left, right):
    return sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


@pytest.mark.parametrize("scope", ["tree", "leaf"])
def test_item_15_l2_without_a_coefficient_never_lengthens_the_parameters(scope):
    """Coupled: ⟨u,θ⟩ ≥ 0, so that d‖θ‖²/dη = −2⟨u,θ⟩ ≤ 0; whole tree or every leaf."""
    tx = mtl.relu_l2_project(scope=scope)
    fired = 0
    for seed in range(20):
        params = {"w": gaussian(3, 4, seed), "b": gaussian(1, 4, seed + 50)}
        grads = {"w": gaussian(3, 4, seed + 100), "b": gaussian(1, 4, seed + 150)}
        updates = l2_step(tx, params, grads)
        assert dot(updates, params) >= -1e-4
        if scope == "leaf":
            assert all(dot(updates[name], params[name]) >= -1e-4 for name in params)
        elif dot(grads, params) >= 0:
            jax.tree.map(np.testing.assert_array_equal, updates, grads)
        fired += dot(grads, params) < 0
    assert 3 < fired < 17


def test_item_15_correction_the_final_theta_belongs_to_the_formula():
    """★ u = g + (−⟨g,θ⟩)₊/‖θ‖² · θ: the projection on a half-space. A scalar in θ's place would not do."""
    params, grads = jnp.array([3.0, 0.0]), jnp.array([-1.0, 2.0])
    update = l2_step(mtl.relu_l2_project(), params, grads)
    np.testing.assert_allclose(update, [0, 2], atol=1e-6)
    np.testing.assert_allclose(update, optax.projections.projection_halfspace(grads, -params, jnp.zeros(())), atol=1e-6)
    misprinted = grads + jnp.maximum(-(grads @ params), 0) / (params @ params)
    assert misprinted @ params < -1  # the article's line as printed lengthens θ
    assert abs(update @ params) < 1e-6


@pytest.mark.standard_promotion
def test_item_15_decoupled_acts_after_the_preconditioner_and_masks_leave_biases_alone():
    params = {"w": jnp.array([1.0, 2.0]), "b": jnp.array([1.0])}
    grads = {"w": jnp.array([-100.0, 1.0]), "b": jnp.array([-1.0])}
    decoupled = l2_step(mtl.adam_relu_l2(0.1), params, grads)
    assert dot(decoupled, params) <= 1e-6  # what is added to θ
    coupled = optax.chain(mtl.relu_l2_project(), optax.adam(0.1))
    assert dot(l2_step(coupled, params, grads), params) > -0.5  # Adam's preconditioner spoils the inner product
    masked = l2_step(mtl.adam_relu_l2(0.1, mask={"w": True, "b": False}), params, grads)
    np.testing.assert_allclose(masked["b"], l2_step(optax.adam(0.1), params, grads)["b"], rtol=1e-6)
    assert masked["w"] @ params["w"] <= 1e-6


def descend(losses_fn, params, transform, num_steps, learning_rate=0.1):
    """Return the losses of every step."""

    def step(params, _):
        losses, grads = mtl.task_value_and_grad(losses_fn)(params)
        update, _ = transform.update(grads, transform.init(params), params)
        return jax.tree.map(lambda p, u: p - learning_rate * u, params, update), losses

    return jax.lax.scan(step, params, length=num_steps)


@pytest.mark.standard_promotion
def test_item_16_noisy_labels_are_learned_from_without_hurting_the_clean_loss():
    """Primary: many examples, half with turned labels in one region; auxiliary: few clean ones there."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((300, 3)), jnp.float32)
    y = jnp.sign(x[:, 0])
    noisy = jnp.where(x[:, 1] > -0.5, -y, y)

    def losses_fn(params):
        margin = x @ params
        return jnp.mean(jax.nn.softplus(-noisy * margin)[20:]), jnp.mean(jax.nn.softplus(-y * margin)[:20])

    _, plain = descend(losses_fn, jnp.zeros(3), mtl.aggregate(lambda gram: jnp.array([1.0, 0.0])), 100)
    _, guarded = descend(losses_fn, jnp.zeros(3), mtl.primary_aux(2), 100)
    assert plain[-1, 1] > plain[0, 1] + 0.02  # the clean loss rises
    assert np.all(np.diff(guarded[:, 1]) < 1e-3)  # and may not
    assert guarded[-1, 1] <= guarded[0, 1] + 1e-3


@pytest.mark.standard_promotion
def test_item_17_a_contrastive_auxiliary_beside_a_classifier():
    """The classifier is the primary; pulling two views of an example together may only help it along."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((40, 6)), jnp.float32)
    view = x + 0.1 * jnp.asarray(rng.standard_normal((40, 6)), jnp.float32)
    labels = (x[:, 0] > 0).astype(jnp.int32)
    params = {"trunk": 0.3 * gaussian(6, 8), "head": 0.3 * gaussian(8, 2, 1)}

    def losses_fn(params):
        embed = lambda inputs: jnp.tanh(inputs @ params["trunk"])
        classify = optax.losses.softmax_cross_entropy_with_integer_labels(embed(x) @ params["head"], labels)
        similarity = embed(x) @ embed(view).T
        contrast = optax.losses.softmax_cross_entropy_with_integer_labels(similarity, jnp.arange(40))
        return {"classify": jnp.mean(classify), "contrast": jnp.mean(contrast)}

    _, losses = descend(losses_fn, params, mtl.primary_aux(2), 150)
    assert losses[-1, 0] < 0.6 * losses[0, 0]
    assert np.all(np.diff(losses[:, 1]) < 1e-2)
