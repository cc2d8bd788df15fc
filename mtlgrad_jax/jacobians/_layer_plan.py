"""Which parameters go layer by layer, which row by row, and why; traced once, before anything is computed."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from mtlgrad_jax.ground.leaves import at_least_single, parts
from mtlgrad_jax.jacobians._layer_factors import factors
from mtlgrad_jax.jacobians._layer_probes import Nested, at
from mtlgrad_jax.jacobians._layer_products import Lookups, Products, Rows
from mtlgrad_jax.jacobians._layer_uses import Alias, Search, Use, aval_of, groups


class Plan(NamedTuple):
    """How every trainable leaf contributes to the Gram matrix."""

    layers: tuple[tuple[Use, ...], ...]  # uses of the same entries of one leaf
    rows: tuple[int, ...]  # leaves whose rows are formed beside the layers
    large: tuple[int, ...]  # leaves whose rows are formed block by block, with gradients of nothing else
    sizes: tuple[int, ...]  # entries of every leaf
    report: tuple[str, ...]  # one sentence a leaf

    @property
    def uses(self) -> list[Use]:
        """All layers, one by one."""
        return [use for group in self.layers for use in group]

    def count(self) -> tuple[int, int]:
        """Return how many parameters are in leaves that enter layers, or are not used, and how many there are."""
        return sum(self.sizes) - sum(self.sizes[leaf] for leaf in self.rows + self.large), sum(self.sizes)

    def parts(self, rows: list[jax.Array], deltas: Nested, taps: Nested, own_taps: bool) -> list[Any]:
        """Return what the layers, and the rows formed beside them, contribute to J.

        Args:
          rows: Gradients of the leaves in `rows`, with the axis of the rows of J.
          taps: What entered the layers.
          deltas: Gradients at the outputs of layers, with the axis of the rows of J.
          own_taps: Whether `taps` have that axis too.
        """
        layers: list[Rows | Products | Lookups] = [
            factors(group, [at(use, taps) for use in group], [at(use, deltas) for use in group], own_taps)
            for group in self.layers
        ]
        wide = [leaf.astype(at_least_single(leaf.dtype)) for leaf in rows]
        return layers + [Rows(part) for leaf in wide for part in parts(leaf)]


class Traced(NamedTuple):
    """A function of leaves and other inputs as a jaxpr, with what is no array left out of its outputs."""

    closed: ClosedJaxpr
    outputs: Callable[[list[Any]], Any]  # arrays -> what the function returned


def trace(function: Callable[..., Any], *args: Any) -> Traced:
    """Trace a function once; it may return strings and other objects, which stay as they are."""
    found = {}

    def arrays_of(*args):
        leaves, found["treedef"] = jax.tree.flatten(function(*args))
        found["leaves"] = [None if is_array(leaf) else leaf for leaf in leaves]
        return list(filter(is_array, leaves))

    closed = jax.make_jaxpr(arrays_of)(*args)

    def outputs(arrays):
        arrays = iter(arrays)
        return found["treedef"].unflatten([next(arrays) if leaf is None else leaf for leaf in found["leaves"]])

    return Traced(closed, outputs)


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array and no Python object."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def make_plan(closed: ClosedJaxpr, num_leaves: int, large_rows: bool) -> Plan:
    """Decide for every leaf.

    Args:
      closed: The losses, first of the outputs, as a function of the leaves, first of the inputs.
      num_leaves: How many leaves there are.
      large_rows: Whether the rows of a leaf that is no layer may be formed beside the layers even if they
        need more memory than these.

    Returns:
      The plan.
    """
    jaxpr = closed.jaxpr
    uses, reasons = find_layers(jaxpr, num_leaves)
    together = {leaf: groups(of_leaf) for leaf, of_leaf in uses.items()}
    for leaf, group in together.items():
        if group is None:
            reasons.setdefault(leaf, f"enters {len(uses[leaf])} layers that share entries of it in different ways")
    layers = tuple(tuple(group) for leaf, found in together.items() if found and leaf not in reasons for group in found)
    room = sum(math.prod(use.full_shape) for group in layers for use in group)
    sizes = tuple(math.prod(var.aval.shape) for var in jaxpr.invars[:num_leaves])
    is_large = [not large_rows and size > room for size in sizes]
    rows = tuple(leaf for leaf in sorted(reasons) if not is_large[leaf])
    large = tuple(leaf for leaf in sorted(reasons) if is_large[leaf])

    def describe(leaf):
        if leaf not in reasons:
            names = sorted({use.name for use in uses.get(leaf, ())})
            return f"layer by layer: {len(uses[leaf])} × {', '.join(names)}" if names else "not used"
        return f"{'block by block' if is_large[leaf] else 'row by row'}: {reasons[leaf]}"

    return Plan(layers, rows, large, sizes, tuple(map(describe, range(num_leaves))))


def find_layers(jaxpr: Jaxpr, num_leaves: int) -> tuple[dict[int, list[Use]], dict[int, str]]:
    """Return the layers that each leaf enters, and why other leaves must go another way."""
    search = Search()
    aliases = [Alias(leaf) for leaf in range(num_leaves)]
    inputs = aliases + [None] * (len(jaxpr.invars) - num_leaves)
    leaving = search.walk(jaxpr, inputs, [number == 0 for number in range(len(jaxpr.outvars))])
    search.give_up(leaving[:1], "is a loss itself")
    if is_placed_by_hand(jaxpr):
        search.give_up(aliases, "lies on a mesh whose axes are manual or explicit")
    uses: dict[int, list[Use]] = {}
    for use in search.uses:
        uses.setdefault(use.alias.leaf, []).append(use)
    return uses, search.reasons


def is_placed_by_hand(jaxpr: Jaxpr) -> bool:
    """Whether the caller says what lies on which device: what enters a layer is then no longer all of it."""
    mesh = jax.sharding.get_abstract_mesh()
    explicit = [name for var in jaxpr.invars for name in aval_of(var).sharding.spec if name is not None]
    return bool(explicit or (not mesh.empty and mesh.manual_axes))
