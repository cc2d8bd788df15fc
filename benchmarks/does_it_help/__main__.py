"""`python -m benchmarks.does_it_help [--quick] [--out FOLDER]`; the package says what it is."""

import argparse
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import does_it_help
from benchmarks.does_it_help import problems, report
from benchmarks.does_it_help.study import study

RESULTS = Path(__file__).parents[1] / "results"
QUICK = {"num_seeds": 2, "num_steps": 40, "num_trials": 2, "only": ("uncertainty", "mgda", "guarded mgda")}
FULL = {"num_seeds": 10}
# Hundreds of programs, each of which runs for a second or so: compiling them well takes longer than it saves.
FLAGS = "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false --xla_cpu_multi_thread_eigen=false"


def in_a_process(names, folder):
    """Run problems one after another in a process with flags of its own; trainings this small use one core."""
    environment = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"}
    command = [sys.executable, "-m", "benchmarks.does_it_help", "--part", *names, "--out", str(folder)]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2])


def run_parts(folder):
    """Run all problems, those with as many tasks after each other, the longest first, one process on every core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda group: in_a_process(group, folder), sorted(problems.ALIKE, key=len, reverse=True)))
    return [study(name, folder / f"{name}.json", **FULL) for name in problems.NAMES]


def minutes(seconds):
    """Return how long it took since a moment, and what that took of the processor, children included."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    processor = sum(usage.ru_utime + usage.ru_stime for usage in used)
    return {"wall": round((time.perf_counter() - seconds) / 60, 1), "processor": round(processor / 60, 1)}


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.does_it_help", description=does_it_help.__doc__)
    parser.add_argument("--quick", action="store_true", help="one problem, two seeds, a few steps and methods")
    parser.add_argument("--part", nargs="+", choices=problems.NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.part:
        for name in options.part:
            study(name, options.out / f"{name}.json", **FULL)
        return
    start = time.perf_counter()
    folder = options.out / "does_it_help_so_far"  # where an interrupted study goes on; a finished one starts anew
    folder.mkdir(parents=True, exist_ok=True)
    parts = [study("digits", folder / "digits.json", **QUICK)] if options.quick else run_parts(folder)
    report.write(parts, options.out, minutes(start))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
