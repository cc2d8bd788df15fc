"""Where parameters enter layers: products, convolutions and lookups, found in the jaxpr of the losses.

Gradients with respect to the outputs of a layer tell the gradient of its parameter, if that is all the parameter is
used for. What is not recognised here is no layer, and its gradient is taken in the general way.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

# Entries are moved and nothing else: the gradient is moved back, and inner products of gradients stay as they are.
REARRANGEMENTS = ("transpose", "reshape", "squeeze", "expand_dims", "rev", "slice", "split", "copy", "copy_p", "name")
CALLS = ("jit", "pjit")
CHECKPOINTS = ("checkpoint", "remat", "remat2")
LAYERS = ("dot_general", "conv_general_dilated", "gather", "dynamic_slice")


class Loop(NamedTuple):
    """A scan around a layer."""

    length: int
    stacked: bool  # the loop takes a slice of the parameter in every step, or all of it in each


class Alias(NamedTuple):
    """A variable that holds a parameter, rearranged."""

    leaf: int
    moves: tuple[tuple[str, Any], ...] = ()  # names and options of the rearrangements
    loops: tuple[Loop, ...] = ()  # outermost first


class Use(NamedTuple):
    """A parameter that enters a layer."""

    alias: Alias
    path: tuple[int, ...]  # the number of the equation, in the jaxpr of the equation before
    operand: int  # which operand of the layer is the parameter
    name: str  # of the primitive
    options: tuple[tuple[str, Any], ...]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]  # of the parameter as it enters, and of the output
    dtype: Any  # of the output

    @property
    def full_shape(self) -> tuple[int, ...]:
        """The shape of the output over all steps of the loops around."""
        return (*(loop.length for loop in self.alias.loops), *self.shapes[1])

    @property
    def option(self) -> dict[str, Any]:
        """The options of the primitive by name."""
        return dict(self.options)


class Search:
    """One walk through a jaxpr: the uses of every parameter, and why others have none."""

    def __init__(self):
        self.uses: list[Use] = []
        self.reasons: dict[int, str] = {}

    def walk(self, jaxpr: Jaxpr, inputs: Sequence[Alias | None], wanted: Sequence[bool], path: tuple[int, ...] = ()):
        """Find what becomes of the parameters.

        Args:
          jaxpr: Of the losses, or one inside it.
          inputs: Which inputs are parameters.
          wanted: Which outputs the losses depend on.
          path: The equations around this jaxpr.

        Returns:
          Which outputs are parameters.
        """
        aliases = {var: alias for var, alias in zip(jaxpr.invars, inputs, strict=True) if alias is not None}
        live = live_variables(jaxpr, wanted)
        for number, equation in enumerate(jaxpr.eqns):
            entering = [None if isinstance(atom, Literal) else aliases.get(atom) for atom in equation.invars]
            if any(entering) and is_live(equation, live):
                leaving = self._visit(equation, entering, live, (*path, number))
                aliases |= {var: alias for var, alias in zip(equation.outvars, leaving, strict=True) if alias}
        return [None if isinstance(atom, Literal) else aliases.get(atom) for atom in jaxpr.outvars]

    def give_up(self, aliases: Sequence[Alias | None], reason: str):
        """Leave parameters to the general way."""
        for alias in aliases:
            if alias is not None:
                self.reasons.setdefault(alias.leaf, reason)

    def _visit(self, equation, entering, live, path):
        name, nothing = equation.primitive.name, [None] * len(equation.outvars)
        if name in REARRANGEMENTS or is_cast(equation) or adds_axes(equation):
            return [move(entering[0], equation, number) for number in range(len(equation.outvars))]
        if name in LAYERS and (operand := parameter_of_layer(equation, entering)) is not None:
            self.uses.append(use(equation, entering[operand], operand, path))
            return nothing
        if name in CALLS + CHECKPOINTS:
            inner = equation.params["jaxpr"]
            return self.walk(getattr(inner, "jaxpr", inner), entering, [v in live for v in equation.outvars], path)
        if name == "scan":
            self._walk_loop(equation, entering, path)
        else:
            self.give_up(entering, f"enters {name}")
        return nothing

    def _walk_loop(self, equation, entering, path):
        options, body = equation.params, equation.params["jaxpr"].jaxpr
        first, last = options["num_consts"], options["num_consts"] + options["num_carry"]
        self.give_up(entering[first:last], "is changed by a loop")

        def inside(alias, stacked):
            if alias is None:
                return None
            moves = (*alias.moves, ("scan", "")) if stacked else alias.moves
            return alias._replace(moves=moves, loops=(*alias.loops, Loop(options["length"], stacked)))

        shared = [inside(alias, False) for alias in entering[:first]]
        stacked = [inside(alias, True) for alias in entering[last:]]
        carry = [None] * options["num_carry"]
        leaving = self.walk(body, [*shared, *carry, *stacked], [True] * len(body.outvars), path)
        self.give_up(leaving, "leaves a loop")


def aval_of(atom: Var | Literal) -> ShapedArray:
    """Return shape and type of a variable or constant; JAX itself promises an `AbstractValue`, which has none."""
    return cast(ShapedArray, atom.aval)


def live_variables(jaxpr: Jaxpr, wanted: Sequence[bool]) -> set[Var]:
    """Return the variables with respect to which the wanted outputs have a gradient."""
    live = {atom for atom, want in zip(jaxpr.outvars, wanted, strict=True) if want and isinstance(atom, Var)}
    for equation in reversed(jaxpr.eqns):
        if is_live(equation, live):
            live |= {atom for atom in equation.invars if isinstance(atom, Var)}
    return live


def is_live(equation: JaxprEqn, live: set[Var]) -> bool:
    """Whether a gradient passes through an equation."""
    reached = [var for var in equation.outvars if var in live and jnp.issubdtype(aval_of(var).dtype, jnp.inexact)]
    return bool(reached) and equation.primitive.name != "stop_gradient"


def is_cast(equation: JaxprEqn) -> bool:
    """Whether an equation rounds, or widens, real numbers."""
    if equation.primitive.name != "convert_element_type":
        return False
    return all(jnp.issubdtype(aval_of(v).dtype, jnp.floating) for v in (*equation.invars, *equation.outvars))


def adds_axes(equation: JaxprEqn) -> bool:
    """Whether a broadcast adds axes of length one only."""
    if equation.primitive.name != "broadcast_in_dim":
        return False
    return aval_of(equation.invars[0]).size == aval_of(equation.outvars[0]).size


def move(alias: Alias, equation: JaxprEqn, output: int) -> Alias:
    """Return the parameter after one more rearrangement."""
    name, options = equation.primitive.name, equation.params
    if name == "split":
        name, starts = "slice", [0] * len(aval_of(equation.invars[0]).shape)
        starts[options["axis"]] = sum(options["sizes"][:output])
        described = cut(starts, aval_of(equation.outvars[output]).shape)
    elif name == "slice" and options["strides"] is None:
        described = cut(options["start_indices"], aval_of(equation.outvars[0]).shape)
    else:
        described = "" if name == "convert_element_type" else str(sorted(options.items()))
    return alias._replace(moves=(*alias.moves, (name, described)))


def cut(starts: Sequence[int], shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return where a slice starts and ends, axis by axis."""
    return tuple((start, start + length) for start, length in zip(starts, shape, strict=True))


def parameter_of_layer(equation: JaxprEqn, entering: Sequence[Alias | None]) -> int | None:
    """Return which operand is the parameter, None where the equation is no layer of one parameter."""
    operands = [number for number, alias in enumerate(entering) if alias is not None]
    if len(operands) != 1 or not all(jnp.issubdtype(aval_of(v).dtype, jnp.floating) for v in equation.outvars):
        return None
    (operand,), options = operands, equation.params
    if equation.primitive.name == "conv_general_dilated" and (operand != 1 or options["batch_group_count"] != 1):
        return None
    if equation.primitive.name in ("gather", "dynamic_slice") and (operand != 0 or not looks_up_rows(equation)):
        return None
    return operand


def looks_up_rows(equation: JaxprEqn) -> bool:
    """Whether a gather or a slice takes whole rows of a table by their number."""
    options, table = equation.params, aval_of(equation.invars[0]).shape
    if options["slice_sizes"] != (1, *table[1:]):
        return False
    if equation.primitive.name == "dynamic_slice":
        return True
    numbers, mode = options["dimension_numbers"], lax.GatherScatterMode.from_any(options["mode"])
    first = tuple(numbers.start_index_map) == (0,) or (
        0 in numbers.start_index_map and mode == lax.GatherScatterMode.CLIP  # to the only start of a whole row
    )
    return first and not numbers.operand_batching_dims


def groups(uses: Sequence[Use]) -> list[list[Use]] | None:
    """Put together what uses the same entries of a parameter in the same way.

    Args:
      uses: All layers that one parameter enters.

    Returns:
      Groups that share no entry of the parameter; None if there are none.
    """
    found: dict[Any, list[Use]] = {}
    for use in uses:
        found.setdefault(way(use), []).append(use)
    moves = [group[0].alias.moves for group in found.values()]
    pairs = [(moves[i], moves[j]) for i in range(len(moves)) for j in range(i)]
    return list(found.values()) if all(share_nothing(left, right) for left, right in pairs) else None


def way(use: Use) -> tuple[Any, ...]:
    """Return what two uses must agree in so that their gradients are added matrix by matrix."""
    option = use.option
    layout = {
        "dot_general": lambda: ("matrix", *(pair[use.operand] for pair in option["dimension_numbers"])),
        "conv_general_dilated": lambda: ("kernel", option["dimension_numbers"].rhs_spec, option["feature_group_count"]),
        "gather": lambda: "rows",
        "dynamic_slice": lambda: "rows",
    }[use.name]()
    return use.alias.moves, layout


def share_nothing(left: Sequence[tuple[str, Any]], right: Sequence[tuple[str, Any]]) -> bool:
    """Whether two ways to rearrange a parameter part at two slices without a common entry."""
    for (name, cuts), (other_name, other_cuts) in zip(left, right, strict=False):
        if (name, cuts) != (other_name, other_cuts):
            slices = name == other_name == "slice" and isinstance(cuts, tuple) and isinstance(other_cuts, tuple)
            return slices and any(
                end <= start or other_end <= other_start
                for (other_start, end), (start, other_end) in zip(cuts, other_cuts, strict=True)
            )
    return False


def use(equation: JaxprEqn, alias: Alias, operand: int, path: tuple[int, ...]) -> Use:
    """Return the record of a layer."""
    parameter, output = aval_of(equation.invars[operand]), aval_of(equation.outvars[0])
    name, options = equation.primitive.name, equation.params
    kept = {
        "dot_general": ("dimension_numbers",),
        "gather": ("dimension_numbers", "mode"),
        "dynamic_slice": (),
        "conv_general_dilated": (
            *("dimension_numbers", "window_strides", "padding", "lhs_dilation", "rhs_dilation"),
            "feature_group_count",
        ),
    }[name]
    options = tuple((key, options[key]) for key in kept)
    return Use(alias, path, operand, name, options, (parameter.shape, output.shape), output.dtype)
