"""Single arrays of a tree: an inner product that neither rounds, copies nor gathers, casts, and what to call them."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from mtlgrad_jax.ground.meshes import varying_axes

SLICE = 16384  # columns; a slice of some dozens of rows fits into the second-level cache
SMALL = 256  # columns; a microsecond of work
FEW = 8  # rows; so many are read at once as fast as one after the other


def contract(left: jax.Array, right: jax.Array, num_kept: int) -> jax.Array:
    """Contract all axes but the first `num_kept` of two leaves of the same shape.

    One `dot_general` on the leaf as it lies: no reshape, so a sharded leaf needs one all-reduce of the
    result and no gather. A lone CPU, where no leaf can be sharded, multiplies matrices instead, because XLA
    copies a leaf of more axes there; long rows go through its cache in slices.

    Args:
      left: Floating or complex, shape `(*kept, *rest)`.
      right: Same dtype, same `rest`.
      num_kept: Number of leading axes that stay.

    Returns:
      Re⟨left, right⟩ over `rest`, shape `(*kept_left, *kept_right)`, accumulated in float32 or float64.
    """
    if jnp.iscomplexobj(left):
        return contract(left.real, right.real, num_kept) + contract(left.imag, right.imag, num_kept)
    if num_kept == 1 and jax.device_count() == 1 and (left.ndim > 2 or has_long_rows(left)):
        return lax.platform_dependent(left, right, cpu=contract_matrices, default=at_once)
    return at_once(left, right, num_kept)


def contract_matrices(left: jax.Array, right: jax.Array) -> jax.Array:
    """Contract all but the first axis of two leaves as matrices, some thousand columns at a time.

    Args:
      left: Floating, shape `(S, *rest)`.
      right: Same dtype, shape `(T, *rest)`.

    Returns:
      ⟨leftᵢ, rightⱼ⟩, shape `(S, T)`, accumulated in float32 or float64.
    """
    return in_slices(at_once, as_matrix(left), as_matrix(right))


def in_slices(product: Callable[..., jax.Array], *matrices: jax.Array) -> jax.Array:
    """Add up a function of matrices that is a sum over their columns, some thousand columns at a time.

    Args:
      product: Of slices; that of no columns is zero.
      *matrices: Shape `(T, n)`; if the first has long rows, all are of the same n.

    Returns:
      Their product, from one call unless rows are long.
    """
    if not has_long_rows(matrices[0]):
        return product(*matrices)
    num_slices, remainder = divmod(matrices[0].shape[1], SLICE)

    def part(start, width):
        return product(*(lax.dynamic_slice_in_dim(rows, start, width, axis=1) for rows in matrices))

    total = part(0, 0)  # zeros, over a mesh of the same type as the products
    total = lax.fori_loop(0, num_slices, lambda i, total: total + part(i * SLICE, SLICE), total)
    return total + part(num_slices * SLICE, remainder) if remainder else total


def join(matrices: list[jax.Array], limit: int) -> list[list[jax.Array]]:
    """Put small matrices that one device holds into bundles of some thousand columns, others on their own.

    A product costs a kernel to compile and a call to run, however small it is.

    Args:
      matrices: Shape `(T, n)`, each with an n of its own.
      limit: The largest n of a small one.

    Returns:
      Lists of matrices of the same dtype that differ over the same mesh axes.
    """
    bundles, filling = [], {}
    for rows in matrices:
        if not is_small(rows, limit):
            bundles.append([rows])
            continue
        kind = (rows.dtype, varying_axes(rows))
        bundle, width = filling.get(kind, (None, 0))
        if bundle is None or width + rows.shape[1] > SLICE:
            bundle, width = [], 0
            bundles.append(bundle)
        bundle.append(rows)
        filling[kind] = bundle, width + rows.shape[1]
    return bundles


def as_matrix(leaf: jax.Array) -> jax.Array:
    """Flatten all axes but the first.

    Gradients of dense layers lie transposed on a CPU: XLA turns them around for every reader that it can merge
    with the turning. It does so once if all readers are loops, branches and products of the same matrix.
    """
    return leaf.reshape(leaf.shape[0], -1)


def has_long_rows(leaf: jax.Array) -> bool:
    """Tell whether a leaf is worth cutting; one of unknown size, as in `jax.export`, is left whole."""
    return isinstance(leaf.size, int) and leaf.size >= 2 * SLICE * leaf.shape[0]


def is_small(leaf: jax.Array, limit: int = SMALL) -> bool:
    """Tell whether a leaf, whole where it is, is so small that kernels are to be few rather than fast."""
    return isinstance(leaf.size, int) and leaf.size <= limit * leaf.shape[0] and explicit_sharding(leaf, ()) is None


def has_few_rows(leaf: jax.Array) -> bool:
    """Tell whether the rows of a leaf can be read at once, where no device holds but some of them."""
    return jax.device_count() == 1 and leaf.shape[0] <= FEW


def at_once(left: jax.Array, right: jax.Array, num_kept: int = 1) -> jax.Array:
    """Contract two real leaves with one `dot_general`, as `contract` does on whatever can have several devices."""
    rest = tuple(range(num_kept, left.ndim))
    return lax.dot_general(
        left,
        right,
        ((rest, rest), ((), ())),
        precision=lax.Precision.HIGHEST,
        preferred_element_type=at_least_single(left.dtype),
        out_sharding=explicit_sharding(left, ()),
    )


def explicit_sharding(leaf: jax.Array, axes: tuple[int, ...]) -> NamedSharding | None:
    """Return the sharding of a result that keeps only these axes of a leaf, in the explicit sharding mode.

    Args:
      leaf: Any array.
      axes: The axes whose sharding the result has, in order; others are replicated.

    Returns:
      A sharding, or None where the compiler decides.
    """
    sharding = jax.typeof(leaf).sharding
    if all(name is None for name in sharding.spec):
        return None
    return NamedSharding(sharding.mesh, PartitionSpec(*(sharding.spec[axis] for axis in axes)))


def weighted_sum(leaf: jax.Array, weights: jax.Array, keep: jax.Array | None = None) -> jax.Array:
    """Combine the rows of a leaf.

    A lone device adds few rows up in one loop, which the compiler can merge with what comes after; more are read
    faster in a product.

    Args:
      leaf: Floating or complex, in float32 or better, shape `(T, *rest)`.
      weights: w, shape `(T,)`.
      keep: Boolean, shape `(T,)`; rows that are left out whatever they hold. All by default.

    Returns:
      Σ wᵢ·rowᵢ, shape `rest`.
    """
    weights = weights.astype(leaf.dtype)
    if has_few_rows(leaf) and not is_small(leaf):
        rows = [leaf[row] if keep is None else jnp.where(keep[row], leaf[row], 0) for row in range(leaf.shape[0])]
        return reduce(jnp.add, [weights[index] * row for index, row in enumerate(rows)])
    if keep is not None:
        leaf = jnp.where(per_row(keep, leaf), leaf, 0)
    if is_small(leaf):  # compiles in an eighth of the time of a product
        return jnp.sum(per_row(weights, leaf) * leaf, axis=0)
    # TPUs merge products that share w, and send one of two leaves that are split differently around for that.
    leaf, weights = lax.optimization_barrier((leaf, weights))
    return lax.dot_general(
        weights,
        leaf,
        (((0,), (0,)), ((), ())),
        precision=lax.Precision.HIGHEST,
        out_sharding=explicit_sharding(leaf, tuple(range(1, leaf.ndim))),
    )


def parts(leaf: jax.Array) -> tuple[jax.Array, ...]:
    """Return the real and the imaginary part of a complex leaf, a real one as it is."""
    return (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)


def map_parts(function: Callable[[jax.Array], jax.Array], leaf: jax.Array) -> jax.Array:
    """Apply a function of real arrays to the parts of a leaf."""
    return lax.complex(function(leaf.real), function(leaf.imag)) if jnp.iscomplexobj(leaf) else function(leaf)


def at_least_single(dtype: jnp.dtype) -> jnp.dtype:
    """Return float32 for a half-precision type, any other floating or complex type unchanged."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def widest(leaves: list[jax.Array]) -> jnp.dtype:
    """Return the dtype in which products of these leaves are summed: float64 if one needs it, else float32."""
    return jnp.dtype(jnp.float64 if any(jnp.finfo(leaf.dtype).bits == 64 for leaf in leaves) else jnp.float32)


def times(share: jax.Array | float, leaf: jax.Array) -> jax.Array:
    """Multiply a leaf by a real number, a complex one part by part: 0·(∞ + i) has no NaN in its imaginary part."""
    return map_parts(lambda part: jnp.asarray(share, part.dtype) * part, leaf)


def per_row(values: jax.Array, leaf: jax.Array) -> jax.Array:
    """Give a vector of T numbers the trailing axes that it needs beside a leaf of T rows."""
    return values.reshape(values.shape + (1,) * (leaf.ndim - 1))


def cast_like(tree: Any, example: Any) -> Any:
    """Cast leaves to the dtypes of another tree."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, example)


def choose(condition: jax.Array, tree: Any, other: Any) -> Any:
    """Return one tree or the other, whole."""
    return jax.tree.map(lambda new, old: jnp.where(condition, new, old), tree, other)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is floating or complex, so that it has a gradient."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def shapes(tree: Any) -> str:
    """Describe the leaves of a tree for an error message."""
    described = [
        f"{jax.tree_util.keystr(path) or 'array'}: {jnp.result_type(leaf).name}{jnp.shape(leaf)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    shown = described[:8] + ([f"and {len(described) - 8} more"] if len(described) > 8 else [])
    return "{" + ", ".join(shown) + "}"
