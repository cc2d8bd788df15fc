"""The studies run, in a few seconds' worth of their sizes, and write the figures that the notebooks read."""

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def studies(monkeypatch):
    """Import the benchmarks from wherever pytest was started, and draw without a screen."""
    monkeypatch.syspath_prepend(str(ROOT))
    matplotlib.use("Agg")
    from benchmarks import l2_without_coefficient, noisy_labels

    yield {"l2_without_coefficient": l2_without_coefficient, "noisy_labels": noisy_labels}
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


@pytest.mark.parametrize("name", ["l2_without_coefficient", "noisy_labels"])
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
