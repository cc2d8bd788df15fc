"""Every public name is on exactly one page of the reference."""

import importlib
import importlib.util
import inspect
import pathlib
import re
from collections import Counter

import pytest

import mtlgrad_jax as mtl

PAGES = pathlib.Path(__file__).parents[1] / "notebooks/pages"
MODULES = [
    mtl,
    mtl.weightings,
    mtl.solvers,
    mtl.jacobians,
    mtl.combinators,
    mtl.transforms,
    mtl.diagnostics,
    mtl.fronts,
]
FILES = [getattr(mtl.jacobians, way) for way in ("stacked", "matrix_free", "structured", "shared_encoder", "separate")]


@pytest.fixture(scope="module")
def pages():
    specification = importlib.util.spec_from_file_location("reference", PAGES / "reference.py")
    reference = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(reference)
    return reference.pages()


def resolve(dotted):
    module, name = dotted.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def shown(pages):
    return re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)", "\n".join(pages.values()), re.MULTILINE)


@pytest.mark.parametrize("module", [*MODULES, mtl.plots, *FILES], ids=lambda module: module.__name__)
def test_what_a_module_offers_is_shown_once(module, pages):
    counts = Counter(id(resolve(name)) for name in shown(pages))
    offered = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    values = {name: getattr(module, name) for name in offered}
    ours = {
        name: counts[id(value)]
        for name, value in values.items()
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__.startswith("mtlgrad_jax.")
    }
    if module in FILES:  # without what they import, and what is shared between files in one sentence
        is_own = lambda value: value.__module__ == module.__name__ and "\n" in (value.__doc__ or "")
        ours = {name: count for name, count in ours.items() if is_own(values[name])}
    assert set(ours.values()) <= {1}, ours


def test_every_method_has_a_page_with_its_transformation_and_its_weights(pages):
    for name in mtl.methods.names():
        page = pages[f"methods/{name}"]
        assert f":: mtlgrad_jax.{name}\n" in page
        assert (f":: mtlgrad_jax.weightings.{name}\n" in page) == hasattr(mtl.weightings, name)
        assert f"(methods/{name}.md)" in pages["methods"]
