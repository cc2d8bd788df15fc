"""What most people on a CPU have: one device. The other tests see eight, where stacks take another path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# What depends on how J is read, asked in a process of its own, with fewer numbers of tasks. What is asked of weights is
# asked once: a method that sees only the Gram matrix is represented by one of its kind, see `cases.one_of_each_kind`.
ASKED_TWICE = {
    "of stacks": {
        "test_stacked": "",
        "test_parameter_order": "",
        "test_aggregate": "not (optimizer or optax or inject or option or solver)",
        "test_guard": "(scipy or float64 or last_bit or half or complex or without_a_stack or finite) and not free",
        "test_random_trees": "",
        "test_faults": "half or scale or come_and_go or fault and stacked",
        "test_step": "rows or part",
    },
    "of methods": {
        "test_policies": "not ordinary",
        "test_promises": "finite or sum_of_the_record or hurt or common_scale or span or keep_their_dtype",
    },
}
FEWER = {"NUMBERS_OF_TASKS": "2 8", "NUMBER_OF_TREES": "100", "ONE_OF_EACH_KIND": "1"}
FILES = {path.stem: path for path in HERE.rglob("test_*.py")}


@pytest.mark.parametrize("what", ASKED_TWICE)
def test_passes_with_one_device_too(what):
    asked = {FILES[name]: words for name, words in ASKED_TWICE[what].items()}
    chosen = " or ".join(f"{path.stem} and ({words})" if words else path.stem for path, words in asked.items())
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", chosen, *map(str, asked)],
        env=os.environ | FEWER | {"XLA_FLAGS": flags},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "passed" in run.stdout
