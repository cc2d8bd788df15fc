"""The lengths in which a step is changed as little as possible: all directions alike, or an optimiser's own."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax import lax

from mtlgrad_jax.ground.leaves import is_inexact, map_parts, shapes, widest
from mtlgrad_jax.ground.meshes import AxisName
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two
from mtlgrad_jax.ground.rows import largest_per_row, scale_tree
from mtlgrad_jax.typing import PyTree

MetricName = Literal["euclidean", "optimizer"]
NAMES = get_args(MetricName)
FLOOR = 2.0**-10  # of the largest √ν: an entry that had no gradient yet moves at most a thousand times as easily


class Euclidean(NamedTuple):
    """D = I."""

    def gram(self, jac: Any, gram: jax.Array, log2_scale: jax.Array) -> jax.Array:
        """Return JDJᵀ / 4ᵏ."""
        del jac, log2_scale  # unused
        return gram

    def apply(self, tree: PyTree) -> PyTree:
        """Return D times a tree."""
        return tree

    def of_leaves(self, change: Callable[[jax.Array], jax.Array]) -> "Euclidean":
        """Return the metric of a list of leaves, each of them changed."""
        del change  # unused
        return self


class Diagonal(NamedTuple):
    """D, not negative, like the parameters."""

    scales: PyTree

    def gram(self, jac: Any, gram: jax.Array, log2_scale: jax.Array) -> jax.Array:
        """Return JDJᵀ / 4ᵏ: at once if J has a way of its own to do so, else by two sweeps for every task."""
        if hasattr(jac, "gram_in"):
            return jac.gram_in(self.scales, log2_scale).astype(gram.dtype)
        seeds = jnp.diag(jnp.ones_like(gram[0]))
        column = lambda seed: jac.push(scale_tree(self.apply(jac.combine(seed)), -2 * log2_scale))
        columns = lax.map(column, seeds).astype(gram.dtype)
        return (columns + columns.T) / 2

    def apply(self, tree: PyTree) -> PyTree:
        """Return D times a tree."""
        return jax.tree.map(_times, self.scales, tree)

    def of_leaves(self, change: Callable[[jax.Array], jax.Array]) -> "Diagonal":
        """Return the metric of a list of leaves, each of them changed."""
        return Diagonal([change(leaf) for leaf in jax.tree.leaves(self.scales)])


Metric = Euclidean | Diagonal


def check_metric(metric: MetricName | Callable[[PyTree], PyTree]):
    """Raise a ValueError unless a metric is known by name or a function."""
    if not callable(metric) and metric not in NAMES:
        raise ValueError(f"expected metric to be one of {', '.join(NAMES)} or a function of the state, got {metric!r}.")


def metric_of(
    metric: MetricName | Callable[[PyTree], PyTree], state: PyTree, step: PyTree, axis_name: AxisName
) -> Metric:
    """Return the metric that a name or a function makes of an optimiser's state."""
    if metric == "euclidean":
        return Euclidean()
    if metric == "optimizer":
        return Diagonal(jax.tree.map(lambda root: 1 / (root + FLOOR), _in_units(_roots(state, step), axis_name)))
    scales = metric(state)
    if _shapes_of(scales) != _shapes_of(step):
        raise ValueError(f"expected a metric like the parameters, {shapes(step)}, got {shapes(scales)}.")
    return Diagonal(_in_units(scales, axis_name))


def _roots(state, step):
    """Return √ν, found in the state wherever it lies, and in whatever parts."""
    places = [dict(_by_path(second_moment)) for _, second_moment in optax.tree.get_all_with_path(state, "nu")]
    roots = []
    for path, leaf in _by_path(step):
        found = [place[path] for place in places if path in place and jnp.shape(place[path]) == jnp.shape(leaf)]
        if is_inexact(leaf) and len(found) != 1:
            raise ValueError(
                f"expected a state with one second moment `nu` for every parameter, as in optax.adam, got {len(found)} "
                f"for {jax.tree_util.keystr(path) or 'the array'}; pass a function of the state as metric, or "
                'metric="euclidean".'
            )
        roots.append(jnp.sqrt(jnp.maximum(found[0], 0)) if found else jnp.ones_like(leaf))
    return jax.tree.structure(step).unflatten(roots)


def _by_path(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


def _shapes_of(tree):
    return jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _in_units(scales, axis_name):
    """Multiply by the power of two that brings the largest entry between one and two."""
    leaves = [leaf[None] for leaf in jax.tree.leaves(scales) if is_inexact(leaf)]
    dtype = widest(leaves)
    exponent = exponent_of(largest_per_row(leaves, dtype, axis_name)[0])
    return jax.tree.map(
        lambda leaf: scale_by_power_of_two(leaf.astype(dtype), -exponent) if is_inexact(leaf) else leaf, scales
    )


def _times(scale, leaf):
    if not is_inexact(leaf):
        return leaf
    return map_parts(lambda part: (scale * part.astype(scale.dtype)).astype(part.dtype), leaf)
