"""The studies run, in a few seconds' worth of their sizes, and write the figures that the notebooks read."""

import json
import sys
from importlib import import_module
from pathlib import Path

import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PUBLISHED = ("two_loss_toy", "jacobian_descent_trajectories", "closed_form_ground", "fronts")


@pytest.fixture
def studies(monkeypatch):
    """Import the benchmarks from wherever pytest was started, and draw without a screen."""
    monkeypatch.syspath_prepend(str(ROOT))
    matplotlib.use("Agg")
    from benchmarks import l2_without_coefficient, noisy_labels

    published = {name: import_module(f"benchmarks.{name}") for name in PUBLISHED}
    yield {"l2_without_coefficient": l2_without_coefficient, "noisy_labels": noisy_labels} | published
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", ["l2_without_coefficient", "noisy_labels"])
def test_quick_study_writes_numbers_and_a_figure(studies, name, tmp_path):
    studies[name].main(["--quick", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    finals = np.array([row["accuracy"]["final"] for row in rows])
    assert finals.shape[1] == 2 and np.all((finals > 0.1) & (finals < 1))
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", PUBLISHED)
def test_quick_study_of_a_published_result_writes_verdicts_and_a_figure(studies, name, tmp_path, capsys):
    studies[name].main(["--quick", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    table = studies[name].table(rows)
    assert table in capsys.readouterr().out
    assert "agrees" in table and "nan" not in table
    assert 10_000 < (tmp_path / f"{name}.png").stat().st_size < 100_000


@pytest.mark.parametrize("name", ["l2_without_coefficient", "noisy_labels", *PUBLISHED])
def test_header_quotes_the_stored_figures(studies, name):
    stored = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    for line in studies[name].table(stored["rows"]).splitlines():
        assert line.strip() in studies[name].__doc__


def test_balanced_order_starts_with_as_many_of_each_class(studies):
    import jax

    from benchmarks import digits

    _, labels = digits.load()
    order = digits.balanced_order(jax.random.key(0), labels)
    assert sorted(np.asarray(order).tolist()) == list(range(len(labels)))
    for count in (5, 20):
        assert np.bincount(labels[order[: 10 * count]]).tolist() == [count] * 10


def test_distance_to_a_curve_and_the_place_on_it(studies):
    from benchmarks import pareto_distance

    corner = [[0, 0], [3, 0], [3, 1]]
    distances, places = pareto_distance.to_curve([[1, 2], [5, 1], [-3, -4], [3, 0.5]], corner)
    np.testing.assert_allclose(distances, [2, 2, 5, 0])
    np.testing.assert_allclose(places, [0.25, 1, 0, 0.875])
    np.testing.assert_allclose(pareto_distance.to_curve([[3, 4]], np.zeros((2, 2)))[0], [5])


@pytest.mark.standard_promotion
def test_pareto_sets_are_where_gradients_oppose(studies):
    import jax

    toy, trajectories = studies["two_loss_toy"], studies["jacobian_descent_trajectories"]
    curve = toy.pareto_set(15)
    np.testing.assert_allclose(curve[[14, 12, 10, 8, 7]], toy.PRINTED, atol=1e-5)
    quadratic = trajectories.PROBLEMS["CQF"]
    for losses, points in (
        (lambda theta: toy.losses(theta, (0.1, 0.1)), curve[3:-3]),
        (
            lambda x: trajectories.losses(x, *(a.astype(np.float32) for a in quadratic[:2])),
            trajectories.pareto_set(quadratic, 9)[1:-1],
        ),
    ):
        rows = np.asarray(jax.vmap(jax.jacobian(losses))(points.astype(np.float32)), float)
        lengths = np.linalg.norm(rows, axis=-1)
        cosines = np.sum(rows[:, 0] * rows[:, 1], axis=-1) / lengths.prod(-1)
        np.testing.assert_allclose(cosines, -1, atol=1e-5)


def test_rise_is_measured_from_the_lowest_value_so_far(studies):
    values = np.array([[[4.0, 2.0], [1.0, 2.0], [3.0, 1.0]]])
    assert studies["jacobian_descent_trajectories"].rise(values) == 0.5


def test_references_of_the_closed_forms_agree_with_each_other(studies):
    ground = studies["closed_form_ground"]
    x = np.array([0.9, -0.3, 0.6, 0.1])
    share = ground.simplex_projection(x)
    np.testing.assert_allclose([share.sum(), share.min()], [1, 0], atol=1e-12)
    np.testing.assert_allclose(ground.shortest(x - np.eye(4)), x - share, atol=1e-12)
