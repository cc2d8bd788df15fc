"""Run every benchmark that this machine can run, one after another, each in a process of its own.

    python -m benchmarks [--quick] [--only NAME ...] [--out FOLDER]

Tables go to the screen, numbers and figures to `benchmarks/results/`. A script whose peer is not installed, or whose
device is not there, says so and is counted apart.
"""

import argparse
import ast
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def scripts():
    """Return the names of all modules and packages here that define `main`, this one left out."""
    modules = {path.stem: path for path in HERE.glob("*.py") if path.stem != "__main__"}
    packages = {path.parent.name: path for path in HERE.glob("*/__main__.py")}
    return [name for name, path in sorted((modules | packages).items()) if _defines_main(path)]


def _defines_main(path):
    functions = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return any(function.name == "main" for function in functions)


def run(name, options):
    """Run one script; return its outcome."""
    print(f"\n=== {name}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(options.out)]
    start = time.monotonic()
    done = subprocess.run(
        command + ["--quick"] * options.quick, cwd=HERE.parent, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode == 0:
        return f"done in {time.monotonic() - start:.0f} s"
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return ("not installed: " if last.startswith("ModuleNotFoundError") else "FAILED: ") + last


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: minutes instead of hours, no verdicts")
    parser.add_argument("--only", nargs="+", choices=scripts(), metavar="NAME", help="names of scripts")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    options.out = options.out.absolute()
    outcomes = {name: run(name, options) for name in options.only or scripts()}
    print("\n" + "\n".join(f"{name:34s}{outcome}" for name, outcome in outcomes.items()))
    return any(outcome.startswith("FAILED") for outcome in outcomes.values())


if __name__ == "__main__":
    sys.exit(main())
