"""The figures of the README are drawn, small, and say what the header of their script quotes."""

import json
import runpy
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script():
    matplotlib.use("Agg")
    return runpy.run_path(str(ROOT / "benchmarks" / "readme_figures.py"))


def test_every_figure_is_drawn(script, tmp_path):
    script["main"](["--quick", "--out", str(tmp_path)])
    numbers = json.loads((tmp_path / "readme_figures.json").read_text())
    assert list(numbers) == ["geometry", "paths", "solvers"]
    for name in numbers:
        assert 10_000 < (tmp_path / f"readme_{name}.png").stat().st_size < 100_000


def test_header_quotes_the_stored_numbers_and_figures_are_small(script):
    results = ROOT / "benchmarks" / "results"
    numbers = json.loads((results / "readme_figures.json").read_text())
    for line in script["table"](numbers).splitlines():
        assert line in script["__doc__"]
    for name in numbers:
        assert (results / f"readme_{name}.png").stat().st_size < 100_000
