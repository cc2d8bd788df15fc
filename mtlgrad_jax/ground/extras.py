"""Keyword arguments that a caller has plenty of, and a function takes as many as it names."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple


class Picking(NamedTuple):
    """A function that may be called with any extras, and is given those that it names."""

    function: Callable[..., Any]
    named: frozenset[str]
    takes_all: bool  # it ends in **extras

    def __call__(self, *args: Any, **extras: Any) -> Any:
        return self.function(*args, **extras)


def picking_extras(function: Callable[..., Any], num_arguments: int) -> Picking:
    """Let a function be called with any extras.

    Args:
      function: Any function whose first `num_arguments` parameters are no extras.
      num_arguments: Their number.

    Returns:
      The function, which is now given those extras that it names behind its arguments, or all if it ends in `**extras`.

    Raises:
      ValueError: If the function has fewer parameters; in a call, if an extra without a default is missing.
    """
    if isinstance(function, Picking):
        return function
    name = getattr(function, "__name__", type(function).__name__)
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) < num_arguments or any(p.kind is p.KEYWORD_ONLY for p in parameters[:num_arguments]):
        raise ValueError(
            f"expected a weighting, a function whose first parameter is a Gram matrix, got {name}"
            f"{inspect.signature(function)}; if it makes a weighting, call it."
        )
    behind = [p for p in parameters[num_arguments:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = frozenset(p.name for p in behind)
    required = [p.name for p in behind if p.default is p.empty]

    def pick(*args, **extras):
        if missing := [extra for extra in required if extra not in extras]:
            raise ValueError(
                f"{name} expected {', '.join(missing)} at every step, got none; in a transformation pass "
                f"tx.update(task_grads, state, params, {missing[0]}={missing[0]})."
            )
        return function(*args, **(extras if takes_all else {key: extras[key] for key in named & extras.keys()}))

    return Picking(pick, named, takes_all)
