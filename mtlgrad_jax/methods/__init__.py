"""Methods, one file each: `weights` (`weighting` with memory, `rows` on J), the Optax factory NAME, and its CLAIMS."""

from types import ModuleType
from typing import TYPE_CHECKING

from mtlgrad_jax.ground.first_use import at_first_use as _at_first_use
from mtlgrad_jax.ground.first_use import public_files as _public_files
from mtlgrad_jax.typing import Claims

_NAMES = _public_files(__path__)

if TYPE_CHECKING:

    def __getattr__(name: str) -> ModuleType:  # what `names` finds; a list of them for type checkers would be a third
        ...
else:
    __getattr__, __dir__ = _at_first_use(__name__, _NAMES)


def names() -> list[str]:
    """Find all methods: the public modules of this folder.

    Returns:
      Their names, in alphabetical order.
    """
    return list(_NAMES)


def claims() -> dict[str, Claims]:
    """Collect what every method says of itself.

    Returns:
      A `typing.Claims` by name.

    Example:
      >>> import mtlgrad_jax as mtl
      >>> mtl.methods.claims()["mgda"].follows
      'shortest convex combination'
    """
    return {name: __getattr__(name).CLAIMS for name in _NAMES}


def catalogue() -> str:
    """Write the table of all methods in Markdown, made from their claims.

    *Keeps* and *needs* are letters of `typing.PROMISES` and `typing.NEEDS`. *Sum* is that of the weights when all tasks
    agree on a gradient g and a loss L, once averages have settled; λ stands for `strength`. *Cost*: besides reading J
    twice, and, where gradients are counted, the memory of the state.

    Returns:
      A string, one line a method.

    Example:
      >>> import mtlgrad_jax as mtl
      >>> print(mtl.methods.catalogue().splitlines()[0].split())
      ['|', 'method', '|', 'what', 'it', 'follows', '|', 'keeps', '|', 'needs', '|', 'sum', '|', 'cost', '|']
    """
    head = ("method", "what it follows", "keeps", "needs", "sum", "cost")
    rows = [(name, c.follows, c.keeps, c.needs, c.sums_to, c.costs) for name, c in claims().items()]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    line = lambda cells: "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])
