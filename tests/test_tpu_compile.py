"""The training steps written by the real compiler of the TPU, for eight chips, without a TPU.

Skipped without the wheel that holds the compiler: `pip install "jax[tpu]"`.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='needs libtpu: pip install "jax[tpu]"'
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Compile everything once, in a process whose environment is its own."""
    out = tmp_path_factory.mktemp("tpu_compile")
    command = [sys.executable, "-m", "benchmarks.tpu_compile", "--quick", "--out", str(out)]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # those of this suite
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads((out / "tpu_compile.json").read_text())["rows"]


def test_every_step_was_compiled(rows):
    steps = {(row["programme"], row["method"]) for row in rows if row["programme"] != "update"}
    assert steps == {(way, name) for way in ("stacked", "matrix_free") for name in ("mgda", "primary_aux", "upgrad")}


def test_one_gram_matrix_is_sent_and_nothing_gathered(rows):
    """Matrix-free none: its sweeps end in activations, which the network's own products add up."""
    for row in rows:
        assert row["T×T"] == (row["programme"] != "matrix_free"), row
        assert row["gathers"] == 0, row
        assert row["keeps sharding"], row


def test_nothing_goes_to_the_host(rows):
    assert all(row["to the host"] == 0 for row in rows)


def test_an_update_moves_little_more_than_two_reads_and_a_write(rows):
    (moved,) = [row["moved"] for row in rows if row["programme"] == "update"]
    assert 0.9 < moved <= 1.5


def test_matrix_free_needs_less_memory_than_the_stack(rows):
    memory = {row["programme"]: row["temp MB"] for row in rows if row["method"] == "mgda"}
    assert memory["matrix_free"] < memory["stacked"]
