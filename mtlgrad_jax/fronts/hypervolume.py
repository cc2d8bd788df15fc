"""The hypervolume of a front, and the weights with which every member raises it most."""

import jax
import jax.numpy as jnp

from mtlgrad_jax.fronts.dominance import ranks
from mtlgrad_jax.ground.grams import reciprocal

NUM_SAMPLES = 100_000
BATCH = 1000  # samples that are looked at together


def hypervolume(
    losses: jax.Array, reference: jax.Array, *, key: jax.Array | None = None, num_samples: int = NUM_SAMPLES
) -> jax.Array:
    """Measure the volume between a front and a reference: what is dominated by a member and dominates the reference.

    The only common measure of a front that rewards being low and being spread, and needs no known front.
    Differentiable in the losses for up to three tasks.

    HV = vol(∪ₖ [Lₖ, reference])

    Args:
      losses: L, shape `(K, T)`; members that are not below the reference in every loss count for nothing.
      reference: Shape `(T,)`.
      key: A `jax.random.key`, needed for more than three tasks.
      num_samples: Random points for more than three tasks.

    Returns:
      A scalar: exact for up to three tasks; for more the share of `num_samples` points, drawn between the
      lowest losses and the reference, that some member dominates, with a standard error of √(HV(V − HV)/num_samples), V
      the volume in which they are drawn.

    Raises:
      ValueError: If shapes do not match, or a key is missing.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.fronts.hypervolume(jnp.array([[1.0, 3.0], [3.0, 1.0]]), jnp.array([4.0, 4.0]))
      Array(5., dtype=float32)

    References:
      Zitzler & Thiele, IEEE Trans. Evol. Comput. 3 (1999).
    """
    if losses.ndim != 2 or losses.shape[0] == 0 or jnp.shape(reference) != losses.shape[1:]:
        raise ValueError(
            f"expected losses of shape (K, T) and reference of shape (T,), got {losses.shape} and "
            f"{jnp.shape(reference)}; batch with jax.vmap."
        )
    reference = jnp.asarray(reference, losses.dtype)
    gains = _gains(losses, reference)
    if gains.shape[1] <= 3:
        return (_largest, _area, _volume)[gains.shape[1] - 1](gains)
    if key is None:
        raise ValueError(
            f"expected key=jax.random.key(seed) for the hypervolume of {losses.shape[1]} losses, got none."
        )
    return _sampled(gains, key, num_samples)


def _gains(losses, reference):
    """Return how far below the reference every member is, zero where it is not so in all losses."""
    inside = jnp.all(losses < reference[None, :], axis=1)
    return jnp.where(inside[:, None], reference[None, :] - losses, 0)


def _largest(gains):
    return jnp.max(gains)


def _area(gains):
    """Return the area of the union of boxes [0, gain]: a staircase, walked down from the widest."""
    widest_first = gains[jnp.argsort(-gains[:, 0])]
    heights = jax.lax.cummax(widest_first[:, 1])
    below = jnp.concatenate([jnp.zeros_like(heights[:1]), heights[:-1]])
    return jnp.sum(widest_first[:, 0] * (heights - below))


def _volume(gains):
    """Return the volume of the union of boxes: slices between one depth and the next, each the area of the deeper."""
    deepest_first = gains[jnp.argsort(-gains[:, 2])]
    depth = deepest_first[:, 2]
    thickness = depth - jnp.concatenate([depth[1:], jnp.zeros_like(depth[:1])])
    number = jnp.arange(depth.shape[0])
    reaches = number[None, :] <= number[:, None]  # slice i is cut by the boxes 0 … i
    areas = jax.vmap(lambda row: _area(jnp.where(row[:, None], deepest_first[:, :2], 0)))(reaches)
    return jnp.sum(thickness * areas)


def _sampled(gains, key, num_samples):
    largest = jnp.max(gains, axis=0)
    num_batches = -(-num_samples // BATCH)

    def count(batch_key):
        points = jax.random.uniform(batch_key, (BATCH, gains.shape[1]), gains.dtype) * largest[None, :]
        covered = jnp.any(jnp.all(points[:, None, :] < gains[None, :, :], axis=-1), axis=1)
        return jnp.mean(covered.astype(gains.dtype))

    shares = jax.lax.map(count, jax.random.split(key, num_batches))
    return jnp.prod(largest) * jnp.mean(shares)


def hypervolume_weights(losses: jax.Array, reference: jax.Array) -> jax.Array:
    """Weigh the tasks of every member so that its step raises the hypervolume of the population most.

    The members spread over the front by themselves, without rays. A member that others dominate adds nothing to the
    volume; it follows that of its own front, the one left when the better fronts are taken away, as it would have no
    gradient otherwise.

    wₖ ∝ −∂HV/∂Lₖ,  HV that of the members with the rank of k

    Args:
      losses: L, shape `(K, T)`, T at most three.
      reference: Shape `(T,)`; moved out to a tenth beyond the worst member where one is not below it.

    Returns:
      w, shape `(K, T)`, non-negative, each row summing to one; 1/T where the volume does not depend on a member, as on
      the second of two equal ones. Hand it to `population` as `weights`, or row by row to a step.

    Raises:
      ValueError: If shapes do not match, or there are more than three tasks.

    Example:
      >>> import jax.numpy as jnp, mtlgrad_jax as mtl
      >>> mtl.fronts.hypervolume_weights(jnp.array([[1.0, 3.0], [2.0, 1.0]]), jnp.array([5.0, 4.0]))
      Array([[0.5, 0.5],
             [0.4, 0.6]], dtype=float32)

    References:
      Emmerich & Deutz, "Time complexity and zeros of the hypervolume indicator gradient field" (2014); Deist et al.,
      arXiv 2102.04523, for dominated members and rows of one length (theirs is Euclidean).
    """
    num_members, num_tasks = losses.shape
    if num_tasks > 3:
        raise ValueError(f"expected at most 3 tasks, for which the hypervolume is exact, got {num_tasks}.")
    worst, best = jnp.max(losses, axis=0), jnp.min(losses, axis=0)
    reference = jnp.asarray(reference, losses.dtype)
    reference = jnp.where(worst < reference, reference, worst + (worst - best) / 10)
    rank = jax.lax.stop_gradient(ranks(losses))

    def volume_of_fronts(losses):
        def of_front(number):
            return hypervolume(jnp.where((rank == number)[:, None], losses, reference[None, :]), reference)

        return jnp.sum(jax.vmap(of_front)(jnp.arange(num_members, dtype=jnp.int32)))

    gains = jnp.maximum(-jax.grad(volume_of_fronts)(losses), 0)
    total = jnp.sum(gains, axis=1, keepdims=True)
    return jnp.where(total > 0, gains * reciprocal(total), 1 / num_tasks)
