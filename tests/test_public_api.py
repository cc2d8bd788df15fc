"""The names that other programs rely on, and what each of them must tell its reader."""

import inspect
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


def test_importing_needs_nothing_but_jax_and_optax():
    heavy = ["flax", "sklearn", "matplotlib", "scipy.optimize", "tqdm", "torch", "pandas"]
    code = f"import sys, mtlgrad_jax; print([m for m in {heavy} if m in sys.modules and m not in before])"
    code = f"import sys, jax, optax; before = set(sys.modules); {code}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


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
