"""The names that other programs rely on, and what each of them must tell its reader."""

import ast
import importlib
import inspect
import json
import pathlib
import re
import subprocess
import sys

import optax
import pytest

import mtlgrad_jax as mtl

REPOSITORY = pathlib.Path(__file__).parents[1]
CONTRACT = [
    "aggregate",
    "mgda",
    "primary_aux",
    "relu_l2_project",
    "adam_relu_l2",
    "accumulate",
    "task_value_and_grad",
    "descent_direction",
    "upgrad",
    "dualproj",
    "pcgrad",
    "cagrad",
    "nash_mtl",
    "weightings.mgda",
    "weightings.primary_aux",
    "weightings.upgrad",
    "solvers.nnls",
    "solvers.min_norm",
    "solvers.frank_wolfe",
    "solvers.softmax_descent",
    "solvers.greedy_coordinate",
    "solvers.certificates.min_norm_gap",
    "jacobians.stacked.gram",
    "jacobians.stacked.combine",
    "jacobians.matrix_free.linearize",
    "jacobians.shared_encoder.linearize",
    "jacobians.separate.linearize",
    "methods.catalogue",
    "methods.cagrad.cagrad_gap",
    "methods.moco.MocoState",
    "solvers.fairness_gap",
    "solvers.max_min_gap",
    "solvers.refine",
    "step.take",
    "typing.Method",
    "diagnostics.cosines",
    "diagnostics.conflicts",
    "diagnostics.stationarity",
    "diagnostics.worst_alignment",
    "diagnostics.relative_gap",
    "diagnostics.read",
    "diagnostics.History",
    "plots.geometry",
]


def resolve(name):
    value = mtl
    for part in name.split("."):
        value = getattr(value, part)
    return value


def public_functions():
    for module in (mtl, mtl.solvers, mtl.weightings, mtl.diagnostics, mtl.plots):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isfunction(value) or hasattr(value, "__wrapped__"):
                yield f"{module.__name__.removeprefix('mtlgrad_jax').lstrip('.')}.{name}".lstrip(".")


@pytest.mark.parametrize("name", CONTRACT)
def test_contract_names_exist(name):
    assert callable(resolve(name))


@pytest.mark.parametrize("name", sorted(set(public_functions())))
def test_public_functions_are_documented_with_an_example_that_runs(name):
    function = resolve(name)
    text = inspect.getdoc(function)
    for section in ("Args:",) * bool(inspect.signature(function).parameters) + ("Returns:", "Example:", ">>> "):
        assert section in text, section
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            assert re.search(rf"^ *{parameter.name}(,.*)?:", text, re.MULTILINE), parameter.name


@pytest.mark.parametrize("name", mtl.methods.names())
def test_factories_share_one_signature(name):
    first, *options = inspect.signature(getattr(mtl, name)).parameters.values()
    assert (first.name, first.default) == ("num_tasks", None)
    assert [p.name for p in options[-2:]] == ["axis_name", "nonfinite"]
    assert all(p.kind is p.KEYWORD_ONLY for p in options)
    assert inspect.signature(getattr(mtl, name)).return_annotation is optax.GradientTransformationExtraArgs


def test_transformations_are_optax_transformations():
    for tx in (mtl.mgda(), mtl.primary_aux(), mtl.aggregate(mtl.weightings.mgda)):
        assert isinstance(tx, optax.GradientTransformationExtraArgs)
    assert isinstance(mtl.relu_l2_project(), optax.GradientTransformation)
    assert isinstance(mtl.jacobians.stacked.Stacked(None), mtl.typing.Jacobian)


def read_by_type_checkers(module):
    """Return what a file imports under a public name, inside `if TYPE_CHECKING` too: where from, by name."""
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.ImportFrom)]
    found = {alias.asname or alias.name: (node.module, alias.name) for node in imports for alias in node.names}
    return {name: source for name, source in found.items() if name[0] != "_" and source[0].startswith("mtlgrad_jax")}


LATE = ("methods.", "combinators", "weightings", "diagnostics", "fronts", "plots", "demo", "jacobians.matrix_free")
FRESH = """
import json, sys, jax, optax
before = set(sys.modules)
import mtlgrad_jax as mtl
loaded = set(sys.modules) - before
ask = lambda: [eval(f"mtl.{name}") for name in sys.argv[1:]] and 0
print(json.dumps({"loaded": sorted(loaded), "equations": str(jax.make_jaxpr(ask)().eqns)}))
"""


@pytest.fixture(scope="module")
def fresh():
    """Import the package in a new process, and ask for all that it has while a program is traced."""
    names = [name for name in read_by_type_checkers(mtl) if name != "plots"] + ["plots", *CONTRACT]
    names += [f"jacobians.{way}.linearize" for way in mtl.jacobians.WAYS.values()]
    names += [f"weightings.{name}" for name in mtl.weightings.__all__]
    names += [f"methods.{name}.CLAIMS" for name in mtl.methods.names()]
    run = subprocess.run([sys.executable, "-c", FRESH, *names], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_importing_needs_nothing_but_jax_and_optax(fresh):
    packages = {name.split(".")[0] for name in fresh["loaded"]} - {"mtlgrad_jax", "jax"}
    assert packages <= sys.stdlib_module_names
    assert "jax.extend" not in fresh["loaded"]  # which imports Pallas, and takes longer than all that is ours


def test_importing_loads_no_method_and_no_room_before_it_is_asked_for(fresh):
    assert not [name for name in fresh["loaded"] if name.startswith(tuple(f"mtlgrad_jax.{late}" for late in LATE))]


def test_what_is_loaded_at_first_use_computes_nothing(fresh):
    """It may be asked for inside `jax.jit`, where an array would be a tracer that outlives its program."""
    assert fresh["equations"] == "[]"


@pytest.mark.parametrize("module", [mtl, mtl.weightings, mtl.jacobians], ids=lambda module: module.__name__)
def test_type_checkers_read_what_there_is(module):
    read = read_by_type_checkers(module)
    for name, (file, original) in read.items():
        assert getattr(module, name) is getattr(importlib.import_module(file), original), name
    there = {*getattr(module, "__all__", ())} - {"descent", "ground"}  # rooms that nobody has to ask for
    assert {name for name in there if name[0] != "_" and name != "TYPE_CHECKING"} <= read.keys()


def test_a_name_that_is_not_there_is_an_attribute_error():
    for module in (mtl, mtl.weightings, mtl.methods, mtl.jacobians):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'mgad'"):
            getattr(module, "mgad")  # noqa: B009
    assert not hasattr(mtl, "_preference") and not hasattr(mtl.weightings, "graddrop")


def test_readme_names_exist():
    text = (REPOSITORY / "README.md").read_text()
    for name in set(re.findall(r"`mtl\.([a-z_0-9.]+)[(`]", text)):
        resolve(name)


def test_the_tour_of_help_names_the_front_door():
    tour = set(re.findall(r"`(?:mtl\.)?([a-z_0-9.]+)[(`]", mtl.__doc__.split("| symbol")[0]))
    for name in tour:
        resolve(name)
    functions = {name for name in mtl.__all__ if inspect.isfunction(getattr(mtl, name))}
    assert functions - set(mtl.methods.names()) <= tour
