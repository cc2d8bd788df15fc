"""The benchmarks of speed run at toy sizes and write what they print; their README quotes the stored figures."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
QUOTED = ["solver_vs_peers", "aggregation_vs_torchjd", "train_step"]


@pytest.fixture
def benchmark(monkeypatch):
    """Import a script from wherever pytest was started, and leave JAX and its modules as they were."""
    monkeypatch.syspath_prepend(str(ROOT))
    yield lambda name: importlib.import_module(f"benchmarks.{name}")
    jax.config.update("jax_cpu_enable_async_dispatch", True)  # the default
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.standard_promotion
def test_scaling_grows_with_the_size_of_the_gradients(benchmark, tmp_path):
    benchmark("scaling_in_tasks_and_parameters").main(["--quick", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "scaling_in_tasks_and_parameters.json").read_text())["rows"]
    assert [(row["num_tasks"], row["num_params"]) for row in rows] == [(2, 10**3), (2, 10**4), (8, 10**3), (8, 10**4)]
    assert all(row[f"{name} gap"] < 1e-5 for row in rows for name in ("mgda", "primary_aux", "upgrad"))
    assert (tmp_path / "scaling_in_tasks_and_parameters.png").stat().st_size > 10_000


@pytest.mark.standard_promotion
def test_gpu_script_measures_or_says_that_it_did_not(benchmark, tmp_path):
    script = benchmark("gpu")
    script.main(["--out", str(tmp_path)])
    assert ("not measured" in json.loads((tmp_path / "gpu.json").read_text())) == (jax.default_backend() != "gpu")
    script.main(["--quick", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "gpu.json").read_text())["bandwidth"][0]["gram error"] < 1e-6


@pytest.mark.standard_promotion
def test_steps_of_every_way_to_hold_the_gradients_run(benchmark, tmp_path):
    benchmark("train_step").main(["--quick", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "train_step.json").read_text())["rows"]
    assert {"plain", "mean", "mgda", "mgda, matrix-free", "mgda, shared encoder"} <= set(row["ms"])
    assert min(row["ms"].values()) > 0


@pytest.mark.standard_promotion
def test_costs_are_counted_beside_a_plain_step(benchmark, tmp_path):
    studies = ["losses", "tasks", "table", "compile"]
    benchmark("costs").main(["--quick", "--only", *studies, "--out", str(tmp_path)])
    stored = json.loads((tmp_path / "costs.json").read_text())
    assert sum(row["what"] == "plain step" for row in stored["rows"]) == 3
    assert all(row["error"] < 1e-6 for row in stored["rows"] if row["what"] == "Gram matrix")
    assert {"met"} <= {line["outcome"].split(" by ")[0] for line in stored["reach"]} <= {"met", "missed"}


def test_exactness_is_judged_by_another_solver(benchmark, tmp_path, capsys):
    benchmark("exactness").main(["--quick", "--out", str(tmp_path)])
    assert capsys.readouterr().out.endswith("met\n")


def test_all_scripts_are_found_and_a_missing_peer_is_not_a_failure(benchmark, tmp_path, capfd):
    runner = benchmark("__main__")
    assert {"solver_vs_peers", "gpu", "two_loss_toy", "burgers"} <= set(runner.scripts())
    assert not {"timing", "verdicts", "__main__"} & set(runner.scripts())
    assert not runner.main(["--quick", "--only", "solver_vs_peers", "--out", str(tmp_path)])
    installed = importlib.util.find_spec("torchjd") is not None
    assert ("not installed" in capfd.readouterr().out) != installed


@pytest.mark.parametrize("name", QUOTED)
def test_readme_and_header_quote_the_stored_figures(benchmark, name):
    script = benchmark(name)
    table = script.table(json.loads((RESULTS / f"{name}.json").read_text())["rows"])
    readme = {line.strip() for line in (ROOT / "benchmarks" / "README.md").read_text().splitlines()}
    for line in table.splitlines():
        assert line.strip() in script.__doc__
        assert line.strip() in readme
