"""The three problems: which two losses, on which images, and which method is meant for them."""

from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtlgrad_jax.demo import data
from mtlgrad_jax.demo.network import TwoHeads
from mtlgrad_jax.typing import PyTree

DIGITS = ("left digit", "right digit")
NUM_PAIRS = 8000
NUM_HELD_OUT = 2396  # every held-out image four times on either side
CLEAN_IMAGES = 0.1  # share of the training images in the small clean set of "noisy"
NUM_CLEAN = 400
WRONG_LABELS = 0.4


class Problem(NamedTuple):
    """Two losses of one network, and the images to train and to judge it on."""

    tasks: tuple[str, str]
    losses: Callable[[PyTree, tuple[data.Pairs, ...]], jax.Array]  # (params, one batch per source) -> (2,)
    sources: tuple[data.Pairs, ...]
    held_out: data.Pairs  # right labels, images that no source contains


def make(name: str, seed: int) -> Problem:
    """Make a problem.

    Args:
      name: `"parallel"` (left and right digit, two equal tasks), `"primary"` (the same two, the left digit being
        the one that counts) or `"noisy"` (both digits, first from many canvases with wrong labels among them,
        then from a few with right ones).
      seed: Decides the split, the pairs and the wrong labels.

    Returns:
      The problem.

    Example:
      >>> from mtlgrad_jax.demo import problems
      >>> problem = problems.make("noisy", 0)
      >>> problem.tasks, [len(source.labels) for source in problem.sources]
      (('noisy labels', 'clean labels'), [8000, 400])
    """
    rng = np.random.default_rng(seed)
    train, test = data.split_digits(seed)
    held_out = data.overlap(test, NUM_HELD_OUT, rng)
    if name != "noisy":
        return Problem(DIGITS, _loss_of_each_digit, (data.overlap(train, NUM_PAIRS, rng),), held_out)

    is_clean = rng.random(len(train.labels)) < CLEAN_IMAGES
    noisy = data.mislabel(data.overlap(data.take(train, ~is_clean), NUM_PAIRS, rng), WRONG_LABELS, rng)
    clean = data.overlap(data.take(train, is_clean), NUM_CLEAN, rng)
    return Problem(("noisy labels", "clean labels"), _loss_of_each_source, (noisy, clean), held_out)


def digit_losses(params: PyTree, pairs: data.Pairs) -> jax.Array:
    """Return the mean cross-entropy of the left and of the right digit, shape `(2,)`."""
    losses = optax.softmax_cross_entropy_with_integer_labels(_logits(params, pairs), pairs.labels)
    return jnp.mean(losses, axis=0)


def digit_hits(params: PyTree, pairs: data.Pairs) -> jax.Array:
    """Return which left and right digits are read rightly, shape `(n, 2)`."""
    return jnp.argmax(_logits(params, pairs), axis=-1) == pairs.labels


def _logits(params, pairs):
    heads = cast(tuple[jax.Array, jax.Array], TwoHeads().apply(params, pairs.canvases))
    return jnp.stack(heads, axis=1)


def _loss_of_each_digit(params, batches):
    (pairs,) = batches
    return digit_losses(params, pairs)


def _loss_of_each_source(params, batches):
    return jnp.stack([jnp.mean(digit_losses(params, pairs)) for pairs in batches])
