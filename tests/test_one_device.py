"""What most people on a CPU have: one device. The other tests see eight, where stacks take another path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
READ_STEP = "scipy or jacobian or float64 or last_bit or half or complex or without_a_stack or not_finite"
READ_ROWS = "finite or sum_of_the_record or hurt or common_scale or span or keep_their_dtype"
ASKED_TWICE = {  # what depends on how J is read, with fewer numbers of tasks; what is asked of weights is asked once
    "jacobians/test_stacked.py": [],
    "transforms/test_aggregate.py": [],
    "transforms/test_guard.py": ["-k", READ_STEP],
    "test_random_trees.py": [],
    "test_faults.py": [],
    "test_step.py": [],
    "test_policies.py": ["-k", "not ordinary"],
    "test_promises.py": ["-k", READ_ROWS],
}


@pytest.mark.parametrize("name", ASKED_TWICE)
def test_passes_with_one_device_too(name):
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *ASKED_TWICE[name], str(HERE / name)],
        env={**os.environ, "XLA_FLAGS": flags, "NUMBERS_OF_TASKS": "2 4", "NUMBER_OF_TREES": "300"},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "passed" in run.stdout
