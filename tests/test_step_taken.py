"""The study of the step that is taken: it runs, its header quotes what is stored, and no guarded step hurts."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
STORED = json.loads((ROOT / "benchmarks" / "results" / "step_taken.json").read_text())


@pytest.fixture
def study(monkeypatch):
    """Import the study from wherever pytest was started."""
    monkeypatch.syspath_prepend(str(ROOT))
    yield importlib.import_module("benchmarks.step_taken")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.standard_promotion
def test_quick_study_writes_what_it_prints(study, tmp_path, capsys):
    study.main(["--quick", "--out", str(tmp_path)])
    stored = json.loads((tmp_path / "step_taken.json").read_text())
    assert study.table(stored["rows"]) in capsys.readouterr().out
    assert {row["guard"] for row in stored["rows"]} == set(study.GUARDS)


def test_header_quotes_the_stored_figures(study):
    tables = study.table(STORED["rows"]), study.rates_table(STORED["halved rates"]), study.ranges(STORED["rows"])
    for line in "\n".join(tables).splitlines():
        assert line.strip() in study.__doc__


def test_every_cell_of_the_plan_is_stored_and_no_run_diverged(study):
    plan = list(study.cells())
    assert [{key: row[key] for key in plan[0]} for row in STORED["rows"]] == plan
    assert all(np.all(np.isfinite(row["held out"])) for row in STORED["rows"])


def test_no_guarded_step_hurt_and_unguarded_ones_did():
    guarded = [row for row in STORED["rows"] if row["guard"] != "plain"]
    assert len(guarded) > 100 and min(min(row["worst"]) for row in guarded) > -1e-5
    assert max(np.mean(row["hurt"]) for row in STORED["rows"] if row["guard"] == "plain") > 0.5
