"""Numbers of a front against inclusion and exclusion, loops, differences and each other's definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtlgrad_jax import fronts

# One program each instead of one an operation; those below that are called as they are show that both will do.
hypervolume, hypervolume_weights = jax.jit(fronts.hypervolume), jax.jit(fronts.hypervolume_weights)
nondominated, ranks = jax.jit(fronts.nondominated), jax.jit(fronts.ranks)


def by_inclusion_and_exclusion(losses, reference):
    """The volume of a union of boxes in float64, box by box."""
    losses = np.minimum(np.asarray(losses, np.float64), reference)
    total = 0.0
    for size in range(1, len(losses) + 1):
        for chosen in itertools.combinations(losses, size):
            total -= (-1) ** size * np.prod(reference - np.max(chosen, axis=0))
    return total


def dominates(first, second):
    return np.all(first <= second) and np.any(first < second)


@pytest.fixture(params=[(1, 4), (5, 1), (6, 2), (7, 3)], ids=lambda shape: f"{shape[0]} of {shape[1]}")
def losses(request):
    """Some beyond the reference at one, some equal, some dominated."""
    losses = np.random.default_rng(0).uniform(0, 1.1, (20, *request.param)).astype(np.float32)
    losses[:, 0] = losses[:, -1]
    losses[:, :, -1] = np.round(losses[:, :, -1], 1)  # ties
    return losses


def test_hypervolume_is_the_volume_of_the_union(losses):
    if losses.shape[-1] > 3:
        pytest.skip("sampled")
    reference = np.ones(losses.shape[-1])
    for front in losses:
        expected = by_inclusion_and_exclusion(front, reference)
        np.testing.assert_allclose(
            hypervolume(jnp.asarray(front), jnp.asarray(reference, jnp.float32)), expected, atol=1e-6
        )


def test_hypervolume_of_many_losses_is_sampled_within_its_error():
    front = np.random.default_rng(0).uniform(0, 1, (6, 4)).astype(np.float32)
    expected = by_inclusion_and_exclusion(front, np.ones(4))
    keys = jax.random.split(jax.random.key(0), 20)
    found = jax.vmap(lambda key: fronts.hypervolume(front, jnp.ones(4), key=key, num_samples=10_000))(keys)
    volume = np.prod(1 - front.min(axis=0))
    error = np.sqrt(expected * (volume - expected) / 10_000)
    assert np.abs(found - expected).max() < 4 * error
    assert 0.5 * error < np.std(found) < 2 * error
    with pytest.raises(ValueError, match="expected key="):
        fronts.hypervolume(front, jnp.ones(4))


@pytest.mark.parametrize("num_tasks", [2, 3])
def test_hypervolume_weights_are_its_slope(num_tasks):
    """Of the members that nobody dominates; the others go for the volume without these."""
    losses = np.random.default_rng(3).uniform(0, 0.9, (8, num_tasks))
    reference = np.ones(num_tasks)
    rank = np.asarray(ranks(jnp.asarray(losses, jnp.float32)))
    assert rank.max() >= 1
    weights = np.asarray(hypervolume_weights(losses.astype(np.float32), reference.astype(np.float32)))
    for member, task in np.ndindex(*losses.shape):
        front = np.flatnonzero(rank == rank[member])
        volume = []
        for step in (-1e-5, 1e-5):
            moved = losses.copy()
            moved[member, task] += step
            volume.append(by_inclusion_and_exclusion(moved[front], reference))
        slope = (volume[0] - volume[1]) / 2e-5
        if task == 0:
            first, scale = slope, float(weights[member, 0])
        np.testing.assert_allclose(weights[member, task] * first, slope * scale, atol=2e-4)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="at most 3 tasks"):
        fronts.hypervolume_weights(jnp.ones((2, 4)), jnp.ones(4))


def test_members_beyond_the_reference_and_equal_ones_have_weights():
    losses = jnp.array([[3.0, 0.2], [0.5, 0.5], [0.5, 0.5], [0.1, 5.0]])
    weights = fronts.hypervolume_weights(losses, jnp.ones(2))
    assert np.all(np.isfinite(weights)) and np.all(weights >= 0)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1, rtol=1e-6)


def test_domination_is_as_in_its_definition(losses):
    for front in losses:
        beaten = [any(dominates(other, member) for other in front) for member in front]
        np.testing.assert_array_equal(nondominated(front), np.logical_not(beaten))
        left, rank, expected = list(range(len(front))), 0, np.zeros(len(front))
        while left:
            best = [k for k in left if not any(dominates(front[j], front[k]) for j in left)]
            expected[best] = rank
            left, rank = [k for k in left if k not in best], rank + 1
        np.testing.assert_array_equal(ranks(front), expected)


@pytest.mark.parametrize(("num_tasks", "num_rays"), [(1, 1), (2, 1), (2, 8), (3, 10), (3, 7), (4, 16), (8, 9)])
def test_rays_are_positive_distinct_and_reach_the_corners(num_tasks, num_rays):
    rays = np.asarray(fronts.rays(num_tasks, num_rays, margin=0.02))
    assert rays.shape == (num_rays, num_tasks)
    np.testing.assert_allclose(rays.sum(axis=1), 1, rtol=1e-6)
    assert rays.min() >= 0.02 - 1e-7
    if num_rays > num_tasks > 1:
        assert np.sum(np.isclose(rays.max(axis=1), 1 - 0.02 * (num_tasks - 1))) == num_tasks
        assert fronts.uniformity(jnp.asarray(rays)) > 0.6
    if num_tasks == 2 and num_rays > 1:
        np.testing.assert_allclose(rays[:, 0], np.linspace(0.02, 0.98, num_rays), atol=1e-6)


def test_rays_of_no_size_are_refused():
    for arguments in ({"num_tasks": 0, "num_rays": 1}, {"num_tasks": 2, "num_rays": 0}):
        with pytest.raises(ValueError, match="at least one"):
            fronts.rays(**arguments)
    with pytest.raises(ValueError, match="margin"):
        fronts.rays(2, 3, margin=0.5)


def test_distances_are_zero_on_the_front_and_see_what_is_missing():
    share = jnp.linspace(0, 1, 101)
    front = jnp.stack([share, 1 - share], axis=1)
    assert fronts.generational_distance(front[::10], front) == 0
    assert fronts.generational_distance(front[::10] + 0.1, front) > 0.1
    assert fronts.inverted_generational_distance(front, front) == 0
    half, all_of_it = front[:50:5], front[::10]
    assert fronts.inverted_generational_distance(half, front) > 4 * fronts.inverted_generational_distance(
        all_of_it, front
    )
    assert fronts.uniformity(all_of_it) > 0.99 > 0.5 > fronts.uniformity(front[jnp.array([0, 50, 51, 100])])


def test_angles_are_those_of_the_arc_cosine_and_exact_near_zero():
    rng = np.random.default_rng(0)
    losses, rays = rng.uniform(0.1, 1, (2, 6, 3))
    cosines = np.sum(losses * rays, axis=1) / np.linalg.norm(losses, axis=1) / np.linalg.norm(rays, axis=1)
    found = fronts.angles(jnp.asarray(losses, jnp.float32), jnp.asarray(rays, jnp.float32))
    np.testing.assert_allclose(found, np.degrees(np.arccos(cosines)), rtol=1e-4)
    tilted = jnp.array([[1.0, 1.0 + 1e-5]])
    np.testing.assert_allclose(fronts.angles(tilted, jnp.ones((1, 2))), np.degrees(0.5e-5), rtol=0.05)
    assert fronts.angles(jnp.zeros((1, 2)), jnp.ones((1, 2))) == 90


def test_members_are_chosen_from_the_front():
    losses = jnp.array([[1.0, 9.0], [2.0, 3.0], [2.5, 2.9], [8.0, 1.0], [2.6, 2.95], [0.9, 20.0]])
    assert fronts.closest(losses, jnp.array([0.5, 0.5])) == 2
    assert fronts.closest(losses, jnp.array([1.0, 9.0])) == 0
    assert fronts.knee(losses) == 1
    assert fronts.within(losses, 0, 3.0) == 1
    assert fronts.within(losses, 1, jnp.array([2.4, jnp.inf])) == 1
    assert fronts.within(losses, 0, 0.5) == -1


def test_repulsion_is_the_slope_of_the_kernel_between_members():
    losses = np.random.default_rng(0).uniform(0, 1, (5, 3)).astype(np.float32)
    grams = np.stack([np.eye(3, dtype=np.float32)] * 5)
    width = 0.4

    def energy(losses):
        squares = jnp.sum((losses[:, None] - losses[None]) ** 2, axis=-1)
        return width * jnp.sum(jnp.exp(-squares / width**2)) / 2  # each pair once

    repel = jax.jit(lambda losses, grams: fronts.repelling_weights(losses, grams, strength=0.7, bandwidth=width))
    slopes = np.asarray(jax.jit(jax.grad(energy))(losses))
    np.testing.assert_allclose(repel(losses, grams), 1 / 3 + 0.7 * slopes, rtol=1e-4, atol=1e-5)
    repel = jax.jit(fronts.repelling_weights)
    alone = repel(losses[:1], grams[:1])
    np.testing.assert_allclose(alone, 1 / 3, rtol=1e-5)
    together = repel(jnp.ones((4, 3)), grams[:4])
    np.testing.assert_allclose(together, 1 / 3, rtol=1e-5)
    with pytest.raises(ValueError, match="expected grams"):
        fronts.repelling_weights(losses, grams[:4])
