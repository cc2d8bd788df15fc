"""What a type checker tells a user: nothing of a program that is right, and every mistake of one that is not."""

import ast
import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import mtlgrad_jax as mtl
from mtlgrad_jax.typing import StatefulWeighting

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


def test_mistakes_are_flagged_and_nothing_else_is(tmp_path):
    for file in (PROGRAM, MISTAKES):
        shutil.copy(file, tmp_path)
    marked = marked_mistakes(MISTAKES)
    assert len(marked) > 40
    assert complaints(tmp_path) == marked


def test_the_program_calls_every_method_with_all_its_options():
    calls = [node for node in ast.walk(ast.parse(PROGRAM.read_text())) if isinstance(node, ast.Call)]
    given = collections.defaultdict(set)
    for call in calls:
        given[ast.unparse(call.func)] |= {keyword.arg for keyword in call.keywords}
    for name in mtl.methods.names():
        assert f"mtl.{name}" in given, name
        factory = getattr(mtl, name)
        options = set(factory.__kwdefaults__ or {}) - {"axis_name", "nonfinite"}
        assert options <= given[f"mtl.{name}"], name


def test_the_program_aggregates_every_weighting():
    tree = ast.parse(PROGRAM.read_text())
    handed = [
        ast.unparse(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "mtl.aggregate"
    ]
    for name in mtl.weightings.__all__:
        returned = getattr(mtl.weightings, name).__annotations__.get("return")
        called = "(" if returned is StatefulWeighting else ""
        assert any(f"mtl.weightings.{name}{called}" in argument for argument in handed), name
