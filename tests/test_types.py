"""What a type checker tells a user: nothing of a program that is right, and every mistake of one that is not."""

import ast
import collections
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import mtlgrad_jax as mtl
from mtlgrad_jax.typing import StatefulWeighting

PROGRAMS = pathlib.Path(__file__).parent / "typing"
PROGRAM, MISTAKES = PROGRAMS / "user_program.py", PROGRAMS / "mistakes.py"


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """Return, by file, the lines and rules that pyright complains of, in a folder that does not hold the package."""
    folder = tmp_path_factory.mktemp("user")
    for program in (PROGRAM, MISTAKES):
        shutil.copy(program, folder)
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "."]
    report = json.loads(subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout)
    assert report["summary"]["filesAnalyzed"] == 2
    found = collections.defaultdict(list)
    for complaint in report["generalDiagnostics"]:
        file, line = pathlib.Path(complaint["file"]).name, complaint["range"]["start"]["line"] + 1
        found[file].append((line, complaint.get("rule"), complaint["message"]))
    return found


def test_a_right_program_is_left_alone(complaints):
    assert not complaints[PROGRAM.name]


def test_every_mistake_is_flagged_on_its_line(complaints):
    lines = enumerate(MISTAKES.read_text().splitlines(), 1)
    marked = {(number, mark[1]) for number, line in lines if (mark := re.search(r"  # error: (\w+)$", line))}
    assert len(marked) > 40
    assert {(line, rule) for line, rule, _ in complaints[MISTAKES.name]} == marked


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
