"""What most people on a CPU have: one device. The other tests see eight, where stacks take another path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "name",
    [
        "jacobians/test_stacked.py",
        "transforms/test_aggregate.py",
        "transforms/test_guard.py",
        "test_random_trees.py",
        "test_faults.py",
    ],
)
def test_passes_with_one_device_too(name):
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", str(HERE / name)],
        env={**os.environ, "XLA_FLAGS": flags},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert "passed" in run.stdout
