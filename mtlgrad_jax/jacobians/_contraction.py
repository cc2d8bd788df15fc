"""The inner product of two leaves, written so that it neither rounds, copies nor gathers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

SLICE = 16384  # columns; a slice of some dozens of rows fits into the second-level cache


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
    left, right = as_matrix(left), as_matrix(right)
    if not has_long_rows(left):
        return at_once(left, right)
    num_slices, remainder = divmod(left.shape[1], SLICE)

    def products(start, width):
        parts = (lax.dynamic_slice_in_dim(rows, start, width, axis=1) for rows in (left, right))
        return at_once(*parts)

    total = products(0, 0)  # zeros, over a mesh of the same type as the products
    total = lax.fori_loop(0, num_slices, lambda i, total: total + products(i * SLICE, SLICE), total)
    return total + products(num_slices * SLICE, remainder) if remainder else total


def as_matrix(leaf: jax.Array) -> jax.Array:
    """Flatten all axes but the first.

    Gradients of dense layers lie transposed on a CPU: XLA turns them around for every reader that it can merge
    with the turning. It does so once if all readers are loops, branches and products of the same matrix.
    """
    return leaf.reshape(leaf.shape[0], -1)


def has_long_rows(leaf: jax.Array) -> bool:
    """Tell whether a leaf is worth cutting; one of unknown size, as in `jax.export`, is left whole."""
    return isinstance(leaf.size, int) and leaf.size >= 2 * SLICE * leaf.shape[0]


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


def varying_axes(leaf: jax.Array) -> frozenset[str]:
    """Return the mesh axes over which a leaf differs inside `shard_map`, empty if that is not tracked."""
    aval = jax.typeof(leaf)
    if hasattr(aval, "vma"):  # before jax 0.10
        return aval.vma
    return aval.manual_axis_type.varying


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
