"""Two real processes that share one set of parameters find the weights that one process finds."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

SCRIPT = pathlib.Path(__file__).with_name("train_across_processes.py")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(num_processes, devices_each):
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices_each}",
        "JAX_PLATFORMS": "cpu",
    }
    coordinator = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, coordinator, str(num_processes), str(index)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(num_processes)
    ]
    results = []
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        results.append(json.loads(out.splitlines()[-1]))
    return results


def test_two_processes_agree_with_each_other_and_with_one():
    first, second = launch(num_processes=2, devices_each=2)
    (alone,) = launch(num_processes=1, devices_each=4)
    assert first["devices"] == second["devices"] == alone["devices"] == 4
    assert first["history"] == second["history"]
    for shared, single in zip(first["history"], alone["history"], strict=True):
        np.testing.assert_allclose(shared["weights"], single["weights"], atol=1e-5)
        np.testing.assert_allclose(shared["losses"], single["losses"], rtol=1e-5)
    assert any(0.05 < weight < 0.95 for step in first["history"] for weight in step["weights"])
