"""The arrows between the folders, no circle between files, and what nobody imports."""

import ast
import pathlib
import re
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "mtlgrad_jax"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "demo" not in path.parts and path.name != "__main__.py")

# A part of the package may import from these, and from no others.
GROUND = {"ground"}
BELOW_STEP = GROUND | {"typing", "solvers", "jacobians"}
ALLOWED = {
    "ground": set(),
    "typing": GROUND,
    "solvers": GROUND | {"typing"},
    "jacobians": GROUND | {"typing"},
    "step": BELOW_STEP,
    "transforms": BELOW_STEP | {"step"},
    "combinators": GROUND | {"typing", "solvers"},
    "methods": BELOW_STEP | {"step", "transforms", "combinators"},
    "weightings": GROUND | {"methods", "combinators"},
    "descent": BELOW_STEP | {"step"},
    "fronts": BELOW_STEP | {"step", "descent"},
    "diagnostics": GROUND | {"typing", "solvers"},
    "plots": GROUND | {"typing", "diagnostics", "fronts"},
}
RUN_TIME = {"jax", "numpy", "optax", "mtlgrad_jax"} | set(sys.stdlib_module_names)
EXTRAS = {"plots": {"matplotlib"}}
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


def part_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path):
    """Names of what a file imports, inside `if TYPE_CHECKING` too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_file(module):
    """Return the file that `module`, or what it is an attribute of, is written in; None if it is not ours."""
    names = module.split(".")
    if names[0] != "mtlgrad_jax":
        return None
    for length in (len(names), len(names) - 1):
        path = PACKAGE.joinpath(*names[1:length])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    raise AssertionError(f"{module} is not in the package")


@every_file
def test_arrows_point_one_way(path):
    part = part_of(path)
    if part == "__init__":
        return
    assert part in ALLOWED, f"{part}: a part of the package that the picture does not show"
    files = [own_file(module) for module in imported_modules(path)]
    assert {part_of(file) for file in files if file} <= ALLOWED[part] | {part}


@every_file
def test_only_run_time_dependencies_and_nothing_private(path):
    for module in imported_modules(path):
        assert module.split(".")[0] in RUN_TIME | EXTRAS.get(part_of(path), set()), module
        assert not module.startswith(("optax._src", "jax._src")), module
        file = own_file(module)
        private = file is not None and (
            file.stem.strip("_") != file.stem != "__init__" or module.split(".")[-1][0] == "_"
        )
        assert not private or file.parent == path.parent, f"{module} is private to {file.parent.name}"


def test_no_circle_of_imports():
    imports = {path: {own_file(module) for module in imported_modules(path)} - {None, path} for path in FILES}
    left = dict(imports)
    while free := [path for path, files in left.items() if not files & left.keys()]:
        for path in free:
            del left[path]
    assert not left, [str(path.relative_to(PACKAGE)) for path in left]


def test_one_file_sums_over_devices():
    reductions = re.compile(r"\b(psum|pmax|pmin|pmean|all_gather|psum_scatter)\b")
    found = {path.name for path in FILES if reductions.search(re.sub(r'".*?"', "", path.read_text()))}
    assert found == {"meshes.py"}


@pytest.mark.parametrize("folder", ["methods", "combinators", "solvers"])
def test_weights_and_solvers_see_arrays_only(folder):
    """Optax is for factories, and for the one solver that descends by an optimiser; no tree, no model below them."""
    for path in sorted((PACKAGE / folder).glob("*.py")):
        tree = ast.parse(path.read_text())
        weights = [node for node in ast.walk(tree) if getattr(node, "name", "") in ("weights", "weighting")]
        for node in weights if folder == "methods" else [tree] * (path.name != "softmax_descent.py"):
            names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            assert not names & {"optax", "stacked", "Stacked"}, path.name


def test_no_name_that_says_nothing():
    for path in FILES:
        assert path.stem.strip("_") not in {"utils", "util", "helpers", "misc", "common", "tools", "base"}, path
