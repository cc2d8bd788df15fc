"""Which task each value of a backward pass belongs to, read off the program.

A value belongs to a task if it depends on the seed of no other. Or its entries along one axis each belong to a task.
An operation that is not known to keep tasks apart mixes them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from jax.extend import core


class Owner(NamedTuple):
    """One task owns the whole value, or each entry along an axis has a task of its own, or none."""

    axis: int | None  # None for the whole value
    tasks: tuple[int | None, ...]  # one, or one for each entry along the axis


MIXED = Owner(None, ())  # depends on several tasks
Owners = list[Owner | None]  # None: depends on no task

ENTRYWISE = frozenset({"abs", "add", "add_any", "clamp", "complex", "conj", "convert_element_type", "copy", "div"})
ENTRYWISE |= {
    "imag",
    "max",
    "min",
    "mul",
    "neg",
    "pcast",
    "pvary",
    "real",
    "reduce_precision",
    "select_n",
    "sign",
    "sub",
}
ENTRYWISE |= {"sharding_constraint"}
ONE_BY_ONE = frozenset({"optimization_barrier", "psum", "psum_invariant"})  # result k is of argument k, entry by entry
RESHAPES = frozenset({"expand_dims", "reshape", "squeeze"})
PROGRAMS = frozenset({"checkpoint", "jit", "pjit", "remat", "remat2"})


def owners_of(variables: Sequence[core.Var | core.Literal], found: dict[core.Var, Owner | None]) -> Owners:
    """Return who owns each of some variables; a constant belongs to nobody."""
    return [None if isinstance(var, core.Literal) else found.get(var) for var in variables]


def outputs_of(eqn: core.JaxprEqn, inputs: Owners) -> Owners:
    """Return who owns the results of an operation.

    Args:
      eqn: The operation.
      inputs: Who owns its arguments.

    Returns:
      One for each result. `MIXED` says that the arguments meet here.
    """
    present = {owner for owner in inputs if owner is not None}
    if not present:
        return [None] * len(eqn.outvars)
    if is_program_of_several(eqn, inputs):
        return _walk(_inner(eqn), inputs)[0]
    if eqn.primitive.name in ONE_BY_ONE:
        return inputs
    if MIXED in present:
        return [MIXED] * len(eqn.outvars)
    if len({owner.tasks for owner in present}) == 1 and all(owner.axis is None for owner in present):
        owners: Owners = [*present]
        return _padded(eqn, inputs) or owners * len(eqn.outvars)
    return _along_an_axis(eqn, inputs) or [MIXED] * len(eqn.outvars)


def is_program_of_several(eqn: core.JaxprEqn, inputs: Owners) -> bool:
    """Whether an operation is a program that tasks enter together, so that one has to look inside."""
    present = {owner for owner in inputs if owner not in (None, MIXED)}
    several = len(present) > 1 or any(owner.axis is not None for owner in present)
    return several and eqn.primitive.name in PROGRAMS


def owners_of_results(jaxpr: core.Jaxpr, inputs: Owners) -> Owners:
    """Return who owns the results of a program, from who owns its arguments."""
    return _walk(jaxpr, inputs)[0]


def size_at_meetings(jaxpr: core.Jaxpr, inputs: Owners) -> int:
    """Count the numbers that belong to a task where they first meet another inside a program.

    Args:
      jaxpr: The program.
      inputs: Who owns its arguments.

    Returns:
      The count; what leaves the program still owned is not in it.
    """
    return _walk(jaxpr, inputs)[1]


def _walk(jaxpr, inputs):
    """Return who owns the results of a program, and `size_at_meetings`."""
    found = dict(zip(jaxpr.invars, inputs, strict=True))
    size = 0
    for eqn in jaxpr.eqns:
        own = owners_of(eqn.invars, found)
        results = outputs_of(eqn, own)
        if is_program_of_several(eqn, own):
            size += size_at_meetings(_inner(eqn), own)
        elif MIXED in results:
            size += sum(var.aval.size for var, owner in zip(eqn.invars, own, strict=True) if owner not in (None, MIXED))
        found.update(zip(eqn.outvars, results, strict=True))
    return owners_of(jaxpr.outvars, found), size


def _inner(eqn):
    inner = eqn.params["jaxpr"]
    return inner.jaxpr if isinstance(inner, core.ClosedJaxpr) else inner


def _padded(eqn, inputs) -> Owners | None:
    """Return the owner of a task's slot in a vector of several, which is what the gradient of `losses[i]` is."""
    if eqn.primitive.name != "pad" or inputs[1] is not None:
        return None
    config = eqn.params["padding_config"]
    padded = [axis for axis, widths in enumerate(config) if any(widths)]
    if len(padded) != 1 or eqn.invars[0].aval.shape[padded[0]] != 1:
        return None
    before, after, _ = config[padded[0]]
    return [Owner(padded[0], (None,) * int(before) + inputs[0].tasks + (None,) * int(after))]


def _along_an_axis(eqn, inputs):
    """Return the owners of the results if the operation keeps the tasks along an axis apart, else None."""
    name, params = eqn.primitive.name, eqn.params
    if name in ENTRYWISE:
        return _entry_by_entry(eqn, inputs)
    if len(set(inputs) - {None}) > 1:
        return None
    place = next(place for place, owner in enumerate(inputs) if owner is not None)
    owner, shape = inputs[place], eqn.invars[place].aval.shape
    axis = owner.axis
    match name:
        case "unstack" if params["axis"] == axis:
            return [_piece(owner, i, i + 1) for i in range(len(owner.tasks))]
        case "split" if params["axis"] == axis:
            ends = [sum(params["sizes"][: i + 1]) for i in range(len(params["sizes"]))]
            return [_piece(owner, end - size, end) for end, size in zip(ends, params["sizes"], strict=True)]
        case "slice" if params["strides"] is None:
            return [_piece(owner, params["start_indices"][axis], params["limit_indices"][axis])]
    moved = _moved(eqn, place, axis, shape)
    return None if moved is None else [owner._replace(axis=moved)]


def _entry_by_entry(eqn, inputs):
    """Let each entry belong to the one task that enters it."""
    out = eqn.outvars[0].aval.shape
    owned = [(owner, var.aval.shape) for owner, var in zip(inputs, eqn.invars, strict=True) if owner is not None]
    if len({owner.axis for owner, _ in owned}) > 1 or any(shape != out for _, shape in owned):
        return None
    entries = [set(entry) - {None} for entry in zip(*(owner.tasks for owner, _ in owned), strict=True)]
    if any(len(entry) > 1 for entry in entries) or owned[0][0].axis is None:
        return None
    return [Owner(owned[0][0].axis, tuple(next(iter(entry), None) for entry in entries))]


def _piece(owner, start, limit):
    tasks = owner.tasks[start:limit]
    if len(tasks) > 1:
        return owner._replace(tasks=tasks)
    return None if tasks == (None,) else Owner(None, tasks)


def _moved(eqn, place, axis, shape):
    """Return which axis of the result the given axis of an argument becomes, None if it does not survive."""
    name, params = eqn.primitive.name, eqn.params
    if name == "broadcast_in_dim":
        return params["broadcast_dimensions"][axis]
    if name == "transpose":
        return params["permutation"].index(axis)
    if name == "dot_general":
        return _moved_by_product(eqn, place, axis)
    if name in RESHAPES:
        out, before = eqn.outvars[0].aval.shape, math.prod(shape[:axis])
        same = (i for i, size in enumerate(out) if size == shape[axis] and math.prod(out[:i]) == before)
        return next(same, None)
    if name == "reduce_sum" and axis not in params["axes"]:
        return axis - sum(reduced < axis for reduced in params["axes"])
    apart = (
        (name == "cumsum" and params["axis"] != axis)
        or (name == "concatenate" and params["dimension"] != axis)
        or (name == "pad" and not any(params["padding_config"][axis]))
    )
    return axis if apart else None


def _moved_by_product(eqn, side, axis):
    contracted, batched = eqn.params["dimension_numbers"]
    if axis in batched[side]:
        return tuple(batched[side]).index(axis)
    if axis in contracted[side]:
        return None
    kept = [
        [i for i in range(var.aval.ndim) if i not in contracted[of] and i not in batched[of]]
        for of, var in enumerate(eqn.invars)
    ]
    return len(batched[0]) + side * len(kept[0]) + kept[side].index(axis)
