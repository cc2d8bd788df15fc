"""An interpreter of jaxprs that adds a zero to the output of every layer, and keeps what entered it.

The gradient with respect to the zero is that with respect to the output.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import eval_jaxpr
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from mtlgrad_jax.jacobians._layer_uses import CALLS, CHECKPOINTS, Use

Nested = dict[int, Any]  # equation number -> what belongs to it, or another of these for the jaxpr inside it


def nested(uses: Sequence[Use], values: Sequence[Any]) -> Nested:
    """Arrange values, one for each use, as the equations are."""
    tree: Nested = {}
    for use, value in zip(uses, values, strict=True):
        branch = tree
        for number in use.path[:-1]:
            branch = branch.setdefault(number, {})
        branch[use.path[-1]] = value
    return tree


def at(use: Use, tree: Nested) -> Any:
    """Return what belongs to a use."""
    for number in use.path:
        tree = tree[number]
    return tree


def zero_probe(use: Use, lead: tuple[int, ...] = ()) -> jax.Array:
    """Return the zeros to add, with an axis for every loop around the layer."""
    return jnp.zeros((*lead, *use.full_shape), use.dtype)


def evaluate(
    jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[Any], uses: Nested, probes: Nested
) -> tuple[list[Any], Nested]:
    """Evaluate a jaxpr with probes.

    Args:
      jaxpr: To evaluate.
      consts: Its constants.
      inputs: Its inputs.
      uses: The layers.
      probes: What to add to their outputs.

    Returns:
      The outputs, and the other operand of every layer.
    """
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs], strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else values[atom]
    taps = {}
    for number, equation in enumerate(jaxpr.eqns):
        operands = list(map(read, equation.invars))
        if number not in uses:
            results = as_it_is(jaxpr, equation, operands)
        elif isinstance(use := uses[number], Use):
            results = [as_it_is(jaxpr, equation, operands)[0] + probes[number]]
            taps[number] = operands[1 - use.operand]
        else:
            results, taps[number] = inside(equation, operands, use, probes[number])
        values.update(zip(equation.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars)), taps


def as_it_is(jaxpr: Jaxpr, equation: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Evaluate one equation of a jaxpr, whatever it is."""
    variables = {var: x for var, x in zip(equation.invars, operands, strict=True) if not isinstance(var, Literal)}
    alone = jaxpr.replace(constvars=[], invars=list(variables), outvars=equation.outvars, eqns=[equation])
    return eval_jaxpr(alone, (), *variables.values())


def inside(equation: JaxprEqn, operands: Sequence[Any], uses: Nested, probes: Nested) -> tuple[list[Any], Nested]:
    """Evaluate an equation that has layers inside."""
    name, options, inner = equation.primitive.name, equation.params, equation.params["jaxpr"]
    if name in CALLS:
        return evaluate(inner.jaxpr, inner.consts, operands, uses, probes)
    if name in CHECKPOINTS:
        run = lambda operands, probes: evaluate(inner, (), operands, uses, probes)
        prevent_cse = bool(np.any(options["prevent_cse"]))  # JAX also takes one for every operand
        return jax.checkpoint(run, prevent_cse=prevent_cse, policy=options["policy"])(operands, probes)
    return loop(options, operands, uses, probes)


def loop(options: dict[str, Any], operands: Sequence[Any], uses: Nested, probes: Nested) -> tuple[list[Any], Nested]:
    """Run a scan whose steps have layers inside."""
    body, first, last = options["jaxpr"], options["num_consts"], options["num_consts"] + options["num_carry"]

    def step(carry, slices):
        xs, probes = slices
        results, taps = evaluate(body.jaxpr, body.consts, [*operands[:first], *carry, *xs], uses, probes)
        return results[: len(carry)], (results[len(carry) :], taps)

    carry, (stacked, taps) = lax.scan(
        step,
        operands[first:last],
        (operands[last:], probes),
        length=options["length"],
        reverse=options["reverse"],
        unroll=options["unroll"],
    )
    return [*carry, *stacked], taps
