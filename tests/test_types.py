"""What a type checker tells a user: nothing of a program that is right, and every mistake of one that is not."""

import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import mtlgrad_jax as mtl

PROGRAMS = pathlib.Path(__file__).parent / "typing"
PROGRAM, MISTAKES = PROGRAMS / "user_program.py", PROGRAMS / "mistakes.py"


def complaints(folder):
    """Return what pyright complains of in a folder that does not hold the package: file, line and rule."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "."]
    environment = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # nor does it ask for a newer pyright
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    report = json.loads(answer.stdout)
    assert report["summary"]["filesAnalyzed"] == len(list(folder.iterdir()))
    return {
        (pathlib.Path(found["file"]).name, found["range"]["start"]["line"] + 1, found.get("rule"))
        for found in report["generalDiagnostics"]
    }


def marked_mistakes(file):
    lines = enumerate(file.read_text().splitlines(), 1)
    return {(file.name, number, mark[1]) for number, line in lines if (mark := re.search(r"  # error: (\w+)$", line))}


def literals(options):
    return ", ".join(f"{name}={value!r}" for name, value in options.items() if not callable(value))


def program_of_all_methods():
    """Write a call of every factory with all its options, and of every weighting in an aggregation."""
    yield "import mtlgrad_jax as mtl"
    for name, claims in mtl.methods.claims().items():
        parameters = inspect.signature(getattr(mtl, name)).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "num_tasks"}
        yield f"mtl.{name}(3, {literals(defaults | dict(claims.options(3)))})"
    for name in mtl.weightings.__all__:
        parameters = inspect.signature(getattr(mtl.weightings, name)).parameters
        if "weighting" in parameters:
            others = {"k": 2, "key": 0}.keys() & parameters.keys()
            inner = "random_weights" if "key" in others else "mgda"
            yield f"mtl.aggregate(mtl.weightings.{name}(mtl.weightings.{inner}{', 2' if others else ''}), 3)"
        else:
            yield f"mtl.aggregate(mtl.weightings.{name}{'' if 'gram' in parameters else '()'}, 3)"


def test_mistakes_are_flagged_and_nothing_else_is(tmp_path):
    for file in (PROGRAM, MISTAKES):
        shutil.copy(file, tmp_path)
    lines = list(program_of_all_methods())
    assert len(lines) > 80
    (tmp_path / "all_methods.py").write_text("\n".join(lines))
    marked = marked_mistakes(MISTAKES)
    assert len(marked) > 40
    assert complaints(tmp_path) == marked
