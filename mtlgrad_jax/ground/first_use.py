"""Names that are found when they are first asked for: files of a folder, and what is named after one."""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable
from typing import Any


def public_files(path: Iterable[str]) -> list[str]:
    """Return the public modules of a package, from its `__path__`, in alphabetical order."""
    return sorted(file.name for file in pkgutil.iter_modules(path) if not file.name.startswith("_"))


def at_first_use(
    module: str, names: Iterable[str], find: Callable[[str], Any] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` of a module, some of whose names are found when they are first asked for.

    Args:
      module: Its `__name__`.
      names: What it has besides what is there already.
      find: A function of a name returning its value, which the module then keeps; imports a file by default.

    Returns:
      The two functions. `dir` shows `__all__` where there is one, and all of `names` otherwise.
    """
    there, names = vars(sys.modules[module]), frozenset(names)
    find = find or (lambda name: importlib.import_module(f"{module}.{name}"))

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        there[name] = value = find(name)
        return value

    return get, lambda: sorted({*there, *there.get("__all__", names)})
