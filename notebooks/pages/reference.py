"""The reference, as text: one page a method and one a folder, each public name of the package on exactly one of them.

What is public is what the package says: `__all__` where there is one, and what a public module defines without a
leading underscore and documents as public things are, with sections. (A function with one sentence is shared between
files, a constant in one of them is a detail.) A name that several modules offer (`mtl.accumulate`,
`mtl.transforms.accumulate`) is shown under the first of them: the front door, the weightings, the types, then the
folders in alphabetical order.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import mtlgrad_jax as mtl
from mtlgrad_jax.typing import NEEDS, PROMISES

ROOT = "mtlgrad_jax"
RULES = {"weights", "weighting", "rows", "CLAIMS"}  # of a file of `methods`; shown as `mtl.weightings.NAME` and as text


class Public(NamedTuple):
    """One public name, where it is shown."""

    module: str  # dotted
    name: str
    kind: str  # "function", "class" or "data"
    home: str  # dotted, the module that defines it


def modules() -> list[ModuleType]:
    """Return the public modules: the front door, the weightings, the types, and every folder with its files."""
    values = [getattr(mtl, name) for name in sorted([*mtl.__all__, "plots"])]
    folders = [value for value in values if isinstance(value, ModuleType)]
    every = [mtl, mtl.weightings, mtl.typing, *(module for folder in folders for module in _with_files(folder))]
    return list(dict.fromkeys(every))


def _with_files(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for file in pkgutil.iter_modules(getattr(module, "__path__", [])):
        if not file.name.startswith("_"):
            yield importlib.import_module(f"{module.__name__}.{file.name}")


def names(module: ModuleType) -> list[str]:
    """Return the public names of a module: its `__all__`, or else what its file defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    is_file = module.__name__.count(".") == 2
    nodes = [node for node in ast.parse(inspect.getsource(module)).body if not _is_detail(node, is_file)]
    return [
        name for name in dict.fromkeys(name for node in nodes for name in _defined(node)) if not name.startswith("_")
    ]


def _is_detail(node: ast.stmt, is_file: bool) -> bool:
    if isinstance(node, ast.FunctionDef):
        return not re.search(r"^ *(Args|Returns|Example):$", ast.get_docstring(node) or "", re.MULTILINE)
    is_value = isinstance(node, ast.Assign | ast.AnnAssign)
    return is_file and is_value and not any(re.match("[A-Z]+[a-z]", name) for name in _defined(node))


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.ImportFrom):  # `from x import y as y`, the mark of what a file offers
        return [alias.name for alias in node.names if alias.asname == alias.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def public() -> list[Public]:
    """Return every public name once."""
    seen, shown = set(), []
    for module in modules():
        for name in names(module):
            value = getattr(module, name)
            is_rule = module.__name__.startswith(f"{ROOT}.methods.") and name in RULES
            if isinstance(value, ModuleType) or is_rule:
                continue
            documented = inspect.isfunction(value) or inspect.isclass(value) or hasattr(value, "__wrapped__")
            is_ours = documented and value.__module__.startswith(ROOT)
            key = id(value) if is_ours else (name, id(value))
            if key in seen:
                continue
            seen.add(key)
            kind = "data" if not is_ours else "class" if inspect.isclass(value) else "function"
            home = _home(value) if is_ours else module.__name__
            shown.append(Public(module.__name__, name, kind, home))
    return shown


def _home(value: Any) -> str:
    """Return the module whose file a function or class is in; weightings say of themselves that it is another."""
    return getattr(inspect.unwrap(value), "__globals__", {"__name__": value.__module__})["__name__"]


def page_of(entry: Public) -> str:
    """Return where a name is shown: a page for each method, one for the front door, and one for each folder."""
    parts = entry.home.split(".")
    if parts[1:2] == ["methods"] and len(parts) == 3:
        return f"methods/{parts[2]}"
    return entry.module.split(".")[1] if "." in entry.module else ROOT


def pages() -> dict[str, str]:
    """Return the text of every page by its name."""
    texts = {ROOT: [_folder_head("mtl", mtl)]}
    for module in modules()[1:]:
        _, folder, *file = module.__name__.split(".")
        if file and folder == "methods":
            texts[f"methods/{file[0]}"] = [_method_head(file[0], module)]
        elif folder == "methods":
            texts[folder] = [_methods()]
        elif not file:
            texts[folder] = [_folder_head(f"mtl.{folder}", module)]
    headings = set()
    for page, heading, entry in sorted(((page_of(e), _heading(e, page_of(e)), e) for e in public()), key=_place):
        texts[page] += [heading] if (page, heading) not in headings else []
        headings.add((page, heading))
        texts[page].append(_entry(entry))
    return {page: "\n\n".join(filter(None, parts)) + "\n" for page, parts in texts.items() if len(parts) > 1}


def _place(shown: tuple[str, str, Public]) -> tuple:
    """Order a page: file by file, in each functions, then the types that they return, then constants."""
    page, heading, entry = shown
    return page, heading, ["function", "class", "data"].index(entry.kind)


def _folder_head(title: str, module: ModuleType) -> str:
    return f"# {title}\n\n```{{py:module}} {module.__name__}\n```\n\n{_prose(module)}"


def _prose(module: ModuleType) -> str:
    """Return the docstring of a module, which is Markdown."""
    return inspect.getdoc(module) or ""


def _heading(entry: Public, page: str) -> str:
    """Return the heading above a name: the file it lives in where a page shows several, nothing on that of a method."""
    if page.startswith("methods/"):
        return ""
    file = entry.home if entry.module in (ROOT, f"{ROOT}.{page}") else entry.module
    module, title = importlib.import_module(file), file.removeprefix(f"{ROOT}.")
    if title == page:
        return ""
    first_line = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")
    return f"## {title}\n\n{first_line}"


def _entry(entry: Public) -> str:
    if entry.kind == "data":
        return f"```{{eval-rst}}\n.. py:data:: {entry.module}.{entry.name}\n\n{_source_of(entry)}\n```"
    option = "\n   :members:" if entry.kind == "class" else ""
    return f"```{{eval-rst}}\n.. auto{entry.kind}:: {entry.module}.{entry.name}{option}\n```"


def _source_of(entry: Public) -> str:
    """Return the lines that define a constant or an alias, or its value if it is defined elsewhere, as a block."""
    module = importlib.import_module(entry.module)
    source = inspect.getsource(module)
    shown = repr(getattr(module, entry.name))
    for node in ast.parse(source).body:
        if entry.name in _defined(node):
            shown = "\n".join(source.splitlines()[node.lineno - 1 : node.end_lineno])  # with the shape behind it
    return "   .. code-block:: python\n\n" + textwrap.indent(shown, "      ")


def _method_head(name: str, module: ModuleType) -> str:
    """Say in words what a method claims."""
    claims = module.CLAIMS
    keeps = [PROMISES[letter] for letter in claims.keeps]
    needs = ["the Gram matrix", *(NEEDS[letter] for letter in claims.needs)]
    rows = {
        "follows": claims.follows,
        "keeps": "<br>".join(keeps) or "nothing that is asked of every method",
        "needs": "<br>".join(needs),
        "weights sum to": claims.sums_to,
        "costs": claims.costs,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"# {name}\n\n{_prose(module)}\n\n| | |\n|---|---|\n{table}"


def _methods() -> str:
    """Return the README of the methods, with a link to the page of each in its catalogue."""
    text = (Path(mtl.methods.__file__).parent / "README.md").read_text()
    linked = re.sub(r"^\| (\w+) (?=.*\|$)", _link, text, flags=re.MULTILINE)
    listed = "\n".join(f"methods/{name}" for name in mtl.methods.names())
    return f"{linked}\n```{{toctree}}\n:hidden:\n\n{listed}\n```"


def _link(match: re.Match) -> str:
    name = match[1]
    return f"| [{name}](methods/{name}.md) " if name in mtl.methods.names() else match[0]
