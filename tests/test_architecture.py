"""The arrows between the folders, and what nobody imports."""

import ast
import pathlib
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "mtlgrad_jax"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "demo" not in path.parts and path.name != "__main__.py")

# A folder may import from these parts of the package, and from no others.
LEAVES = {"typing", "ground"}
ALLOWED = {
    "ground": set(),
    "typing": {"ground"},
    "jacobians": LEAVES,
    "solvers": LEAVES,
    "weightings": LEAVES | {"solvers"},
    "transforms": LEAVES | {"jacobians", "solvers", "weightings"},
    "descent": LEAVES | {"jacobians", "solvers"},
    "diagnostics": LEAVES | {"solvers"},
    "plots": LEAVES | {"diagnostics"},
}
RUN_TIME = {"jax", "numpy", "optax", "mtlgrad_jax"} | set(sys.stdlib_module_names)
EXTRAS = {"plots": {"matplotlib"}}


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(path):
    for module in imported_modules(path):
        names = module.split(".")
        if names[0] == "mtlgrad_jax" and len(names) > 1:
            yield names[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_point_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return
    assert part in ALLOWED, f"{part}: a part of the package that the picture does not show"
    assert set(parts_imported(path)) <= ALLOWED[part] | {part}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_run_time_dependencies_and_nothing_private(path):
    for module in imported_modules(path):
        assert module.split(".")[0] in RUN_TIME | EXTRAS.get(part_of(path), set()), module
        assert not module.startswith(("optax._src", "jax._src")), module


@pytest.mark.parametrize("folder", ["weightings", "solvers"])
def test_weightings_and_solvers_see_arrays_only(folder):
    allowed = {"softmax_descent.py"}  # descends by an Optax optimiser, on a vector
    for path in sorted((PACKAGE / folder).glob("*.py")):
        modules = set(imported_modules(path))
        assert path.name in allowed or not any(module.split(".")[0] == "optax" for module in modules), path.name


def test_no_name_that_says_nothing_and_no_file_too_long():
    for path in FILES:
        assert path.stem.strip("_") not in {"utils", "util", "helpers", "misc", "common", "tools", "base"}, path
        assert len(path.read_text().splitlines()) <= 300, path
