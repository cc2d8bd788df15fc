"""The study of what helps runs at toy size, its statistics are right, and its header quotes what is stored."""

import json
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(monkeypatch):
    """Import the study's modules from wherever pytest was started, and draw without a screen."""
    monkeypatch.syspath_prepend(str(ROOT))
    matplotlib.use("Agg")
    yield lambda name: import_module(f"benchmarks.does_it_help.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.standard_promotion
def test_quick_study_writes_rows_verdicts_and_a_figure_and_goes_on_where_it_stopped(study, tmp_path, capsys):
    main, so_far = study("__main__"), tmp_path / "does_it_help_so_far"
    so_far.mkdir()
    study("study").study("digits", so_far / "digits.json", **main.QUICK | {"only": ("uncertainty",)})
    assert "digits: uncertainty" in capsys.readouterr().out
    main.main(["--quick", "--out", str(tmp_path)])
    stored = json.loads((tmp_path / "does_it_help.json").read_text())
    rows = study("report").rows_of(stored, "digits")
    assert {"single task", "equal weights", "tuned weights", "uncertainty", "mgda", "guarded mgda"} == set(rows)
    assert all(0 < error < 1 for row in rows.values() for error in row["errors"])
    assert rows["uncertainty"]["cost"] == 1 < rows["guarded mgda"]["time"]
    assert set(stored["methods"]) == {"uncertainty", "mgda", "guarded mgda"}
    printed = capsys.readouterr().out
    assert study("report").table(stored) in printed and study("report").guard_table(stored) in printed
    assert "digits: guarded mgda" in printed and "digits: uncertainty" not in printed and not so_far.exists()
    assert 5_000 < (tmp_path / "does_it_help.png").stat().st_size < 100_000


def test_header_quotes_the_stored_figures(study):
    stored = json.loads((ROOT / "benchmarks" / "results" / "does_it_help.json").read_text())
    header = import_module("benchmarks.does_it_help").__doc__
    for table in (study("report").table(stored), study("report").guard_table(stored)):
        assert all(line.strip() in header for line in table.splitlines())
    assert all(sentence in " ".join(header.split()) for sentence in stored["verdicts"])


def test_every_method_runs_or_has_a_reason(study):
    import mtlgrad_jax as mtl

    contestants = study("contestants")
    for num_tasks, counts in ((2, None), (3, 0), (14, None)):
        problem = SimpleNamespace(tasks=("",) * num_tasks, counts=counts)
        names, absent = contestants.contestants(problem)
        bare = {name for name in absent if name.startswith("guarded ")}
        assert sorted({*names, *absent} - bare) == mtl.methods.names()
        guarded = {label for label in contestants.labels(names) if label not in names}
        assert guarded == {f"guarded {name}" for name in ("sum", *names)} - bare
        assert bare == {"guarded momentum_conflict_free"}
        assert ("dcgd" in names) == (num_tasks == 2) and ("primary_aux" in names) == (counts is not None)


@pytest.mark.standard_promotion
def test_guarded_rows_are_those_of_the_guard_around_the_chain(study):
    import jax
    import optax

    import mtlgrad_jax as mtl

    training, rng = study("training"), np.random.default_rng(0)
    params, rows = np.zeros((2, 5), np.float32), rng.normal(size=(4, 2, 3, 5)).astype(np.float32)
    init, update, _ = training.stepper("excess_mtl", 3)
    tx = mtl.guard(study("contestants").optimizer("excess_mtl", 3, 0.1), 3)
    whole = jax.jit(jax.vmap(lambda params, state, rows: tx.update(rows, state, params, losses=rows[:, 0] ** 2)))
    ours, chain, theirs, state = params, init(params), params, jax.vmap(tx.init)(params)
    for turn in range(4):
        losses = rows[turn, :, :, 0] ** 2
        _, updates, chain = update(ours, chain, rows[turn], None, losses, 0.1, 0)
        ours = training.guard(3)(ours, rows[turn], updates)
        updates, state = whole(theirs, state, rows[turn])
        theirs = optax.apply_updates(theirs, updates)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_search_spends_its_budget_and_judges_by_what_was_not_chosen_by(study):
    search = study("search")
    rows = [
        {"chosen by, final": [2.0, 1.0], "final": [[5.0], [6.0]]},
        {"chosen by, final": [1.0, 3.0], "final": [[7.0], [8.0]]},
        {"chosen by, final": [0.0, 0.0], "final": [[9.0], [9.0]]},
    ]
    assert search.within(1.9, rows, "final")[0].tolist() == [[5.0], [6.0]]
    assert search.within(2.9, rows, "final")[0].tolist() == [[7.0], [6.0]]
    weights = search.trials(3, 4)
    np.testing.assert_allclose(weights[0], 1)
    np.testing.assert_allclose(weights.sum(axis=1), 3)


def test_statistics_agree_with_scipy_and_by_hand(study):
    from scipy import stats

    statistics, rng = study("statistics"), np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 10))
    assert statistics.paired(ours, theirs) == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)
    assert statistics.paired(ours, ours) == 1
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.5]), [0.04, 0.09, 0.09, 0.5])
    part = {"tasks": ["a", "b"], "counts": None, "single": [], "trials": [{"final": [[1.0, 4.0], [3.0, 4.0]]}]}
    np.testing.assert_allclose(statistics.delta(part, np.array([[2.0, 4.0], [3.0, 2.0]]), "final"), [25, -25])
    part["single"] = [{"final": [[1.0, 9.0], [3.0, 9.0]]}, {"final": [[9.0, 4.0], [9.0, 6.0]]}]
    assert statistics.errors_of(part, "single task", "final").tolist() == [[1, 4], [3, 6]]


def test_area_under_the_curve_is_scikit_learns(study):
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    target, scores = (rng.random(50) < 0.3).astype(np.float32), rng.integers(0, 9, 50).astype(np.float32)
    area = study("problems")._area_under_curve(scores, target)
    assert float(area) == pytest.approx(roc_auc_score(target, scores), abs=1e-6)
