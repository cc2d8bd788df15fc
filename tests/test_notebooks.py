"""Every notebook runs from top to bottom in a kernel of its own and is stored with its figures."""

import json
import os
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 120  # alone each takes less than a minute; here others run beside it
# Little time for making machine code, but more than in the rest of the suite: some train for thousands of steps. Those
# that take few are compiled as the rest is.
FLAGS = (
    "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
TAKE_FEW_STEPS = {"02_article_two", "03_shared_encoder", "09_monitoring_a_run", "10_scaling_out"}
FEWER_FLAGS = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 6


@every_notebook
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}
    )
    start = time.perf_counter()
    flags = FEWER_FLAGS if path.stem in TAKE_FEW_STEPS else FLAGS
    client.execute(env=os.environ | {"XLA_FLAGS": flags})
    assert time.perf_counter() - start < SECONDS


@every_notebook
def test_notebook_is_stored_executed_with_figures_and_small(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < 500_000
