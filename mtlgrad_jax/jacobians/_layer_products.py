"""The Gram matrix of the gradients of one layer, from what entered it and the gradients at its output.

A layer z = aW has the gradients aᵀδᵢ, and ⟨aᵀδᵢ, aᵀδⱼ⟩ = ⟨aaᵀ, δᵢδⱼᵀ⟩: the cheaper of the two sides is computed.
"""

from typing import NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
from jax import lax

from mtlgrad_jax.ground.leaves import contract, per_row
from mtlgrad_jax.ground.meshes import largest_of_pieces
from mtlgrad_jax.ground.ranges import exponent_of, scale_by_power_of_two
from mtlgrad_jax.typing import Gram


class Rows(NamedTuple):
    """Gradients of a parameter, one by one."""

    right: jax.Array  # (R, *param_shape)
    left: None = None

    def gram(self) -> Gram:
        """Return ⟨gᵢ, gⱼ⟩."""
        return contract(self.right, self.right, 1)


class Products(NamedTuple):
    """Gradients aᵀδ of H matrices, of which each is used in N places."""

    left: jax.Array  # a, (H, N, m) for all rows, or (R, H, N, m)
    right: jax.Array  # δ, (R, H, N, n)

    def gram(self) -> Gram:
        """Return ⟨aᵀδᵢ, aᵀδⱼ⟩."""
        rows, stack, places, after = self.right.shape
        before = self.left.shape[-1]
        of_gradients = stack * rows * (places + rows) * before * after
        if self.left.ndim == 3:
            of_places = stack * places * (places * before + rows * places * after + rows * rows * after)
            return self._by_gradients() if of_gradients < of_places else mirrored(self._by_places())
        of_pairs = stack * (rows * places) ** 2 * (before + after)
        return self._by_gradients() if of_gradients < of_pairs else mirrored(self._by_pairs())

    def _by_gradients(self):
        row = "r" if self.left.ndim == 4 else ""

        def of_columns(right):
            gradients = product(f"{row}hpm,rhpn->rhmn", self.left, right)
            return contract(gradients, gradients, 1)

        pieces = self._num_pieces()
        if pieces == 1:
            return of_columns(self.right)
        columns = self.right.reshape(*self.right.shape[:3], pieces, -1)
        return jnp.sum(lax.map(of_columns, jnp.moveaxis(columns, 3, 0)), axis=0)

    def _num_pieces(self):
        """Return in how many pieces no gradient needs more memory than the layer, if its columns can be divided so."""
        places, after = self.right.shape[2:]
        before = self.left.shape[-1]
        room = places * (before + after)
        return next(
            (count for count in range(1, after) if after % count == 0 and before * after <= count * room), after
        )

    def _by_places(self):
        kernel = product("hpm,hqm->hpq", self.left, self.left)
        return contract(product("hpq,rhqn->rhpn", kernel, self.right), self.right, 1)

    def _by_pairs(self):
        def with_all(left, right):
            before = product("hpm,rhqm->rhpq", left, self.left)
            return jnp.sum(before * product("hpn,rhqn->rhpq", right, self.right), axis=(1, 2, 3))

        return map_rows(with_all, self.left, self.right)


class Lookups(NamedTuple):
    """Gradients of H tables of V rows, of which N are looked up; −1 is no row."""

    left: jax.Array  # row numbers, (H, N) for all rows of J, or (R, H, N)
    right: jax.Array  # δ, (R, H, N, n)
    num_rows: int  # V

    def gram(self) -> Gram:
        """Return ⟨gᵢ, gⱼ⟩, from the rows that are looked up."""
        places = self.right.shape[2]
        if self.left.ndim == 2:
            slots, num_slots = self.left, self.num_rows
            if places < num_slots:
                slots, num_slots = jax.vmap(first_place)(self.left), places
            return self._by_slots(jnp.broadcast_to(slots, self.right.shape[:3]), num_slots)
        if self.num_rows < places**2:
            return self._by_slots(self.left, self.num_rows)
        return mirrored(self._by_pairs())

    def _by_slots(self, slots, num_slots):
        def add_up(slots, right):
            empty = jnp.zeros((num_slots, right.shape[-1]), right.dtype)
            return empty.at[jnp.where(slots < 0, num_slots, slots)].add(right, mode="drop")

        gradients = jax.vmap(jax.vmap(add_up))(slots, self.right)
        return contract(gradients, gradients, 1)

    def _by_pairs(self):
        def with_all(left, right):
            same = (left[None, :, :, None] == self.left[:, :, None, :]) & (left >= 0)[None, :, :, None]
            return jnp.sum(jnp.where(same, product("hpn,rhqn->rhpq", right, self.right), 0), axis=(1, 2, 3))

        return map_rows(with_all, self.left, self.right)


def first_place(numbers: jax.Array) -> jax.Array:
    """Return, for every place, one place that stands for all with the same number; −1 stays."""
    _, slots = jnp.unique(numbers, return_inverse=True, size=numbers.shape[0])
    return jnp.where(numbers < 0, -1, slots)


def product(equation: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiply in full precision."""
    return jnp.einsum(equation, left, right, precision=lax.Precision.HIGHEST)


def map_rows(with_all, left: jax.Array, right: jax.Array) -> jax.Array:
    """Map over the rows of J, as many at a time as make temporaries no larger than the layer's own."""
    rows, _, places, after = right.shape
    before = left.shape[-1] if left.ndim == right.ndim else 0
    at_once = max(1, min(rows, max(before + after, rows) // places))
    return lax.map(lambda row: with_all(*row), (left, right), batch_size=at_once)


def mirrored(gram: Gram) -> Gram:
    """Return the lower triangle on both sides: a product and its transpose may be rounded differently."""
    lower = jnp.tril(gram)
    return lower + jnp.tril(lower, -1).T


def to_unit(
    parts: list[Rows | Products | Lookups], split: tuple[str, ...]
) -> tuple[list[Rows | Products | Lookups], jax.Array]:
    """Divide every row of J by a power of two that brings the products of its layers to about one.

    Args:
      parts: What the layers and single parameters contribute to J.
      split: Mesh axes over which they are pieces of a whole.

    Returns:
      The parts of the rows 2⁻ᵏⁱgᵢ, and k, int32, shape `(R,)`.
    """
    lefts = [left_exponents(part) if is_scaled(part) else jnp.int32(0) for part in parts]
    sums = [left + exponents(part.right, 1) for part, left in zip(parts, lefts, strict=True)]
    common = largest_of_pieces(sums, split)

    def scale(part, left):
        right = scale_by_power_of_two(part.right, per_row(left - common, part.right))
        if not is_scaled(part):
            return part._replace(right=right)
        shared = left if left.ndim == 0 else per_row(left, part.left)
        return part._replace(left=scale_by_power_of_two(part.left, -shared), right=right)

    return [scale(part, left) for part, left in zip(parts, lefts, strict=True)], common


def is_scaled(part: Rows | Products | Lookups) -> TypeGuard[Products]:
    """Whether what entered the layer has a size."""
    return isinstance(part, Products)


def left_exponents(part: Products) -> jax.Array:
    """Return the power of two of what entered the layer, one for all rows of J if it is the same for all."""
    return exponents(part.left, part.left.ndim - 3)


def exponents(x: jax.Array, num_kept: int) -> jax.Array:
    """Return the power of two of the largest entry over all axes but the first ones."""
    largest = jnp.max(jnp.abs(x), axis=tuple(range(num_kept, x.ndim)), initial=0)
    return exponent_of(jnp.where(jnp.isfinite(largest), largest, 0))
