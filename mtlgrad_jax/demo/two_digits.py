"""The three problems with two digits on one canvas: which two losses, on which images."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mtlgrad_jax as mtl
from mtlgrad_jax.demo import data, pictures
from mtlgrad_jax.demo.network import TwoHeads
from mtlgrad_jax.demo.problem import Problem
from mtlgrad_jax.typing import PyTree

DIGITS = ("left digit", "right digit")
NUM_PAIRS = 8000
NUM_HELD_OUT = 2396  # every held-out image four times on either side
CLEAN_IMAGES = 0.1  # share of the training images in the small clean set of "noisy"
NUM_CLEAN = 400
WRONG_LABELS = 0.4
BATCH_SIZE = 64
LEARNING_RATE = 2e-3


def make(name: str, seeds: tuple[int, ...]) -> Problem:
    """Make a problem.

    Args:
      name: `"parallel"` (left and right digit, two equal tasks), `"primary"` (the same two, the left digit being
        the one that counts) or `"noisy"` (both digits, first from many canvases with wrong labels among them,
        then from a few with right ones).
      seeds: Each decides a split, the pairs and the wrong labels.

    Returns:
      The problem.

    Example:
      >>> from mtlgrad_jax.demo import two_digits
      >>> problem = two_digits.make("noisy", (0, 1))
      >>> sources, held_out = problem.data
      >>> [source.labels.shape for source in sources], held_out.canvases.shape
      ([(2, 8000, 2), (2, 400, 2)], (2, 2396, 8, 12))
    """
    noisy = name == "noisy"
    losses = _loss_of_each_source if noisy else _loss_of_each_digit
    return Problem(
        tasks=("noisy labels", "clean labels") if noisy else DIGITS,
        judged=DIGITS,
        errors=tuple(f"misread, {digit}" for digit in DIGITS),
        learning_rate=LEARNING_RATE,
        data=jax.tree.map(lambda *leaves: np.stack(leaves), *(sources_and_held_out(name, seed) for seed in seeds)),
        init=lambda key: TwoHeads().init(key, jnp.zeros((1, data.SIDE, data.SIDE + data.SHIFT))),
        draw=lambda images, key: _draw(images[0], key),
        everything=lambda images: images[0],
        losses=losses,
        gradients=mtl.task_value_and_grad(losses),
        judge=lambda params, images: (digit_losses(params, images[1]), 1 - jnp.mean(hits(params, images[1]), axis=0)),
        show=lambda params, images: hits(params, images[1])[: pictures.NUM_CANVASES],
        picture=lambda figure, shown, images: pictures.canvases(figure, shown, images[1]),
    )


def sources_and_held_out(name: str, seed: int) -> tuple[tuple[data.Pairs, ...], data.Pairs]:
    """Return the canvases that batches are drawn from, and others with right labels from images no source contains.

    Args:
      name: See `make`.
      seed: See `make`.

    Returns:
      One set of canvases for each batch that the losses look at, and the held-out canvases.

    Example:
      >>> from mtlgrad_jax.demo import two_digits
      >>> (pairs,), held_out = two_digits.sources_and_held_out("parallel", 0)
      >>> len(pairs.labels), len(held_out.labels), set(pairs.identity.ravel()) & set(held_out.identity.ravel())
      (8000, 2396, set())
    """
    rng = np.random.default_rng(seed)
    train, test = data.split_digits(seed)
    held_out = data.overlap(test, NUM_HELD_OUT, rng)
    if name != "noisy":
        return (data.overlap(train, NUM_PAIRS, rng),), held_out

    is_clean = rng.random(len(train.labels)) < CLEAN_IMAGES
    noisy = data.mislabel(data.overlap(data.take(train, ~is_clean), NUM_PAIRS, rng), WRONG_LABELS, rng)
    return (noisy, data.overlap(data.take(train, is_clean), NUM_CLEAN, rng)), held_out


def digit_losses(params: PyTree, pairs: data.Pairs) -> jax.Array:
    """Return the mean cross-entropy of the left and of the right digit, shape `(2,)`."""
    losses = optax.softmax_cross_entropy_with_integer_labels(_logits(params, pairs), pairs.labels)
    return jnp.mean(losses, axis=0)


def hits(params: PyTree, pairs: data.Pairs) -> jax.Array:
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


def _draw(sources, key):
    """Draw one batch from every source."""
    batches = []
    for pairs, source_key in zip(sources, jax.random.split(key, len(sources)), strict=True):
        rows = jax.random.randint(source_key, (BATCH_SIZE,), 0, len(pairs.labels))
        batches.append(jax.tree.map(lambda field, rows=rows: field[rows], pairs))
    return tuple(batches)
