"""Every picture is drawn from real data, has words on its axes, and shows the numbers that it was given."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from cases import draw

import mtlgrad_jax as mtl
from mtlgrad_jax import diagnostics

matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")
plots = mtl.plots
NUM_STEPS = 6


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def grams():
    return jnp.stack([mtl.jacobians.stacked.gram(jnp.asarray(draw("opposed", 3, seed))) for seed in range(NUM_STEPS)])


@pytest.fixture(scope="module")
def weights(grams):
    return np.asarray(jax.jit(jax.vmap(mtl.weightings.mgda))(grams))


def labels(ax):
    return [label for label in ax.get_legend_handles_labels()[1] if not label.startswith("_")]


def assert_explains_itself(ax):
    """There is a title, and words on at least one axis and on every other that has ticks."""
    assert ax.get_title(loc="left") and ax.get_xlabel()
    ticks = [tick.get_text() for tick in ax.get_yticklabels()]
    assert ax.get_ylabel() or not ticks or re.search("[a-z]{3}", ticks[0])
    ax.figure.draw_without_rendering()


def line(ax, label):
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found.get_xydata()


def test_cosines(grams):
    ax = plots.cosines(grams[0], tasks=["a", "b", "c"])
    assert_explains_itself(ax)
    np.testing.assert_allclose(ax.images[0].get_array(), diagnostics.cosines(grams[0]), atol=1e-6)
    assert ax.texts[1].get_text() == f"{diagnostics.cosines(grams[0])[0, 1]:.2f}"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    with pytest.raises(ValueError, match="a name for each of 3 tasks, got 1"):
        plots.cosines(grams[0], tasks=["a"])


@pytest.mark.parametrize("window", [1, 3])
def test_weights(weights, window):
    ax = plots.weights(weights, window=window, steps=10 * np.arange(NUM_STEPS))
    assert_explains_itself(ax)
    assert labels(ax) == ["task 1", "task 2", "task 3"]
    drawn = line(ax, "task 2")
    np.testing.assert_array_equal(drawn[:, 0], 10 * np.arange(NUM_STEPS))
    np.testing.assert_allclose(drawn[-1, 1], weights[-window:, 1].mean(), rtol=1e-6)
    np.testing.assert_allclose(drawn[0, 1], weights[0, 1], rtol=1e-6)


def test_more_tasks_than_colours_are_told_apart_by_their_lines():
    ax = plots.weights(np.ones((2, 9)))
    styles = {(drawn.get_color(), drawn.get_linestyle()) for drawn in ax.get_lines() if "task" in drawn.get_label()}
    assert len(styles) == 9


def test_conflicts(grams):
    ax = plots.conflicts(grams, np.ones((NUM_STEPS, 3), np.float32))
    assert_explains_itself(ax)
    image = np.asarray(ax.images[0].get_array())
    cosines = np.stack([diagnostics.cosines(gram) for gram in grams])
    aligned = np.stack([diagnostics.alignment(gram, jnp.ones(3)) for gram in grams])
    np.testing.assert_allclose(image[:3], [cosines[:, 0, 1], cosines[:, 0, 2], cosines[:, 1, 2]], atol=1e-6)
    np.testing.assert_allclose(image[3:], aligned.T, atol=1e-6)
    assert [text.get_text() for text in ax.texts] == [f"{share:.0%}" for share in np.mean(image < 0, axis=1)]
    fewer = plots.conflicts(grams, most_pairs=1)
    often = np.argmax(np.mean(image[:3] < 0, axis=1))
    np.testing.assert_array_equal(fewer.images[0].get_array()[0], image[often])


def losses_fn(theta):
    return jnp.stack([jnp.sum((theta - 1) ** 2), 2 * jnp.sum((theta + 1) ** 2)])


PATHS = {"one": np.array([[2.0, -1.0], [1.5, 0.0], [1.0, 0.5]]), "two": np.zeros((2, 4, 2))}


@pytest.mark.parametrize("draw_paths", [lambda **given: plots.landscape(losses_fn, PATHS, **given), None])
def test_landscape_and_front(draw_paths):
    pareto = np.array([[-1.0, -1.0], [1.0, 1.0]])
    ax = (draw_paths or (lambda **given: plots.front(PATHS, **given)))(pareto=pareto)
    assert_explains_itself(ax)
    assert [label for label in labels(ax) if label in PATHS] == ["one", "two"]
    np.testing.assert_array_equal(line(ax, "one"), PATHS["one"])
    (band,) = [drawn for drawn in ax.get_lines() if str(drawn.get_label()).startswith("Pareto")]
    np.testing.assert_array_equal(band.get_xydata(), pareto)
    starts = [drawn.get_xydata()[0] for drawn in ax.get_lines() if drawn.get_marker() == "o"]
    np.testing.assert_array_equal(starts, [[2, -1], [0, 0], [0, 0]])
    if draw_paths is None:
        (corner,) = ax.patches
        assert tuple(corner.get_xy() + np.array([corner.get_width(), corner.get_height()])) == (2.0, -1.0)
    else:
        assert len(ax.collections) == 2  # the contours of two losses


def test_geometry_shows_what_hurts():
    task_grads = jnp.array([[3.7, 0.5], [-1.0, 1.0]])
    shortest = mtl.weightings.mgda(task_grads @ task_grads.T) @ task_grads
    ax = plots.geometry(task_grads, {"sum": task_grads.sum(axis=0), "MGDA": shortest})
    assert_explains_itself(ax)
    tips = {text.get_text(): text.get_color() for text in ax.texts if text.get_text()}
    assert tips["sum"] == plots.PALETTE[1] and tips["MGDA"] == plots.PALETTE[2]
    np.testing.assert_array_equal(line(ax, "averages of the gradients"), task_grads)
    (cone,) = (patch for patch in ax.patches if patch.get_label() == "hurts no task")
    assert np.min(cone.get_xy() @ np.asarray(task_grads).T) > -1e-6 and len(cone.get_xy()) > 3


def test_geometry_of_gradients_with_many_entries():
    task_grads = draw("gaussian", 2)
    ax = plots.geometry(task_grads, {"mean": task_grads.mean(axis=0)})
    ends = line(ax, "averages of the gradients")
    np.testing.assert_allclose(np.linalg.norm(ends, axis=1), np.linalg.norm(task_grads, axis=1), rtol=1e-5)
    flat = np.concatenate([task_grads, task_grads.sum(axis=0, keepdims=True)])
    ax = plots.geometry(flat)
    assert len(ax.texts) == 6  # an arrow and a name for each
    (hull,) = (patch for patch in ax.patches if patch.get_label() == "averages of the gradients")
    np.testing.assert_allclose(np.linalg.norm(hull.get_xy()[:3], axis=1), np.linalg.norm(flat, axis=1), rtol=1e-5)
    with pytest.raises(ValueError, match="expected three gradients in one plane, .* plots.weight_triangle"):
        plots.geometry(draw("gaussian", 3))
    with pytest.raises(ValueError, match=r"two or three gradients of at least two entries, got shape \(4, 28\)"):
        plots.geometry(draw("gaussian", 4))


def test_weight_triangle():
    gram = jnp.array([[4.0, -3.0, 0.5], [-3.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
    ax = plots.weight_triangle(gram, {"first": np.array([2.0, 0, 0]), "MGDA": mtl.weightings.mgda(gram)})
    assert_explains_itself(ax)
    first, shortest = (drawn for drawn in ax.get_lines() if drawn.get_marker() == "o")
    assert first.get_color() == plots.PALETTE[1] and shortest.get_color() == plots.PALETTE[2]
    np.testing.assert_allclose(first.get_xydata(), [[0, 0]])
    with pytest.raises(ValueError, match=r"three tasks, got shape \(2, 2\)"):
        plots.weight_triangle(jnp.eye(2))


def test_convergence():
    gaps = {"slow": [0.1, 0.01, 0.0], "fast": [1e-3, 1e-5, 1e-9]}
    ax = plots.convergence(gaps, steps=(1, 10, 100), exact=(3, 0.0))
    assert_explains_itself(ax)
    np.testing.assert_allclose(line(ax, "slow")[:2], [[1, 0.1], [10, 0.01]])
    assert line(ax, "slow")[2, 1] > 0 and "exact, 3 steps" in labels(ax)


def test_pictures_go_into_given_axes(grams, weights):
    _, axes = plt.subplots(1, 3)
    assert plots.weights(weights, ax=axes[0]) is axes[0]
    assert plots.cosines(grams[0], ax=axes[1]) is axes[1]
    assert plots.front(PATHS, ax=axes[2]) is axes[2]
    assert len(plt.get_fignums()) == 1


def test_the_notebooks_use_the_same_colours():
    style = (Path(__file__).parents[1] / "notebooks" / "okabe_ito.mplstyle").read_text()
    assert re.findall(r'"([0-9A-F]{6})"', style) == [colour.removeprefix("#") for colour in plots.PALETTE]


def test_one_sentence_without_matplotlib():
    program = "import sys; sys.modules['matplotlib'] = None; import mtlgrad_jax as mtl; mtl.plots"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        'ImportError: mtlgrad_jax.plots needs Matplotlib; in a checkout of mtlgrad_jax: pip install ".[plots]"'
    )


def test_trade_offs_in_two_losses():
    losses = np.array([[1.0, 3.0], [2.0, 2.0], [2.5, 2.5], [3.0, 1.0]])
    paths = np.stack([losses + 1, losses])
    reference = np.array([4.0, 4.0])
    ax = plots.trade_offs(paths, rays=losses, reference=reference, pareto=losses[[0, 1, 3]] - 0.1, chosen=1)
    assert_explains_itself(ax)
    assert labels(ax) == ["Pareto front", "rays", "hypervolume", "reference", "members", "dominated", "chosen"]
    np.testing.assert_array_equal(line(ax, "members"), losses[[0, 1, 3]])
    np.testing.assert_array_equal(line(ax, "dominated"), losses[[2]])
    np.testing.assert_array_equal(line(ax, "chosen"), losses[[1]])
    (area,) = ax.collections
    corners = area.get_paths()[0].vertices
    shoelace = np.sum(corners[:-1, 0] * corners[1:, 1] - corners[1:, 0] * corners[:-1, 1]) / 2
    np.testing.assert_allclose(abs(shoelace), mtl.fronts.hypervolume(losses.astype(np.float32), reference), rtol=1e-5)


def test_trade_offs_in_three_losses():
    losses = np.eye(3) + 0.1
    ax = plots.trade_offs(np.stack([2 * losses, losses]), rays=losses, reference=np.full(3, 2.0), pareto=losses)
    assert ax.get_zlabel() == "loss of task 3"
    assert labels(ax) == ["Pareto front", "rays", "reference", "members"]
    ax.figure.draw_without_rendering()
    with pytest.raises(ValueError, match="two or three losses"):
        plots.trade_offs(np.ones((2, 4)))
