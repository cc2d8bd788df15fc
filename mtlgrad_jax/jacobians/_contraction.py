"""The inner product of two leaves, written so that it neither rounds, copies nor gathers."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec


def contract(left: jax.Array, right: jax.Array, num_kept: int) -> jax.Array:
    """Contract all axes but the first `num_kept` of two leaves of the same shape.

    One `dot_general` on the leaf as it lies: no reshape, so a sharded leaf needs one all-reduce of the
    result and no gather.

    Args:
      left: Floating or complex, shape `(*kept, *rest)`.
      right: Same dtype, same `rest`.
      num_kept: Number of leading axes that stay.

    Returns:
      Re⟨left, right⟩ over `rest`, shape `(*kept_left, *kept_right)`, accumulated in float32 or float64.
    """
    if jnp.iscomplexobj(left):
        return contract(left.real, right.real, num_kept) + contract(left.imag, right.imag, num_kept)
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


def at_least_single(dtype: jnp.dtype) -> jnp.dtype:
    """Return float32 for a half-precision type, any other floating or complex type unchanged."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def widest(leaves: list[jax.Array]) -> jnp.dtype:
    """Return the dtype in which products of these leaves are summed: float64 if one needs it, else float32."""
    return jnp.dtype(jnp.float64 if any(jnp.finfo(leaf.dtype).bits == 64 for leaf in leaves) else jnp.float32)
