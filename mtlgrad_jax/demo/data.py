"""Two handwritten digits on one canvas, from scikit-learn's bundled digits."""

from typing import NamedTuple, cast

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

SIDE = 8  # pixels of a digit
SHIFT = 4  # columns between the two digits, so that half of each is covered
NUM_CLASSES = 10


class Digits(NamedTuple):
    """Single digits; `identity` says which image of the bundled data each one is."""

    images: np.ndarray  # (n, 8, 8) float32 in [0, 1]
    labels: np.ndarray  # (n,) int32
    identity: np.ndarray  # (n,) int32


class Pairs(NamedTuple):
    """Canvases with a left and a right digit."""

    canvases: np.ndarray  # (n, 8, 12) float32 in [0, 1]
    labels: np.ndarray  # (n, 2) int32, left and right
    identity: np.ndarray  # (n, 2) int32, the images they were made from


def split_digits(seed: int, *, held_out: float = 1 / 3) -> tuple[Digits, Digits]:
    """Split the bundled digits into training and held-out images, before any pair is made.

    Pairs made first and split later would show a network the same handwriting in training and in the test.

    Args:
      seed: Decides the split.
      held_out: Share of the images that is held out.

    Returns:
      Training and held-out digits, each with the classes in equal shares.

    Example:
      >>> from mtlgrad_jax.demo import data
      >>> train, test = data.split_digits(0)
      >>> len(train.labels), len(test.labels), set(train.identity) & set(test.identity)
      (1198, 599, set())
    """
    bundled = cast(Bunch, load_digits())
    everything = Digits(
        images=(bundled.images / bundled.images.max()).astype(np.float32),
        labels=bundled.target.astype(np.int32),
        identity=np.arange(len(bundled.target), dtype=np.int32),
    )
    train, test = train_test_split(
        everything.identity, test_size=held_out, random_state=seed, stratify=everything.labels
    )
    return take(everything, np.asarray(train)), take(everything, np.asarray(test))


def take(digits: Digits, rows: np.ndarray) -> Digits:
    """Return the digits in these rows.

    Args:
      digits: Any digits.
      rows: Row numbers or a mask.

    Returns:
      The chosen digits.

    Example:
      >>> import numpy as np
      >>> from mtlgrad_jax.demo import data
      >>> train, _ = data.split_digits(0)
      >>> data.take(train, np.arange(3)).images.shape
      (3, 8, 8)
    """
    return Digits(*(field[rows] for field in digits))


def overlap(digits: Digits, num_pairs: int, rng: np.random.Generator) -> Pairs:
    """Draw pairs of digits and lay them over each other on one canvas.

    canvas = max(left, right shifted by four columns)

    Args:
      digits: Images to draw from.
      num_pairs: How many canvases.
      rng: Decides the pairs.

    Returns:
      Pairs in which every image is used about equally often on either side.

    Example:
      >>> import numpy as np
      >>> from mtlgrad_jax.demo import data
      >>> train, _ = data.split_digits(0)
      >>> data.overlap(train, 5, np.random.default_rng(0)).canvases.shape
      (5, 8, 12)
    """
    left, right = (_shuffled_rounds(len(digits.labels), num_pairs, rng) for _ in range(2))
    canvases = np.zeros((num_pairs, SIDE, SIDE + SHIFT), np.float32)
    canvases[:, :, :SIDE] = digits.images[left]
    canvases[:, :, SHIFT:] = np.maximum(canvases[:, :, SHIFT:], digits.images[right])
    sides = np.stack([left, right], axis=1)
    return Pairs(canvases, digits.labels[sides], digits.identity[sides])


def mislabel(pairs: Pairs, share: float, rng: np.random.Generator) -> Pairs:
    """Replace a share of the labels by a wrong one.

    Args:
      pairs: Canvases with right labels.
      share: Share of the labels, left and right, that becomes wrong.
      rng: Decides which, and what they become.

    Returns:
      The same canvases; a changed label is any other digit with equal probability.

    Example:
      >>> import numpy as np
      >>> from mtlgrad_jax.demo import data
      >>> rng = np.random.default_rng(0)
      >>> right = data.overlap(data.split_digits(0)[0], 1000, rng)
      >>> bool(abs(np.mean(data.mislabel(right, 0.4, rng).labels != right.labels) - 0.4) < 0.05)
      True
    """
    wrong = rng.random(pairs.labels.shape) < share
    other = (pairs.labels + rng.integers(1, NUM_CLASSES, pairs.labels.shape)) % NUM_CLASSES
    return pairs._replace(labels=np.where(wrong, other, pairs.labels).astype(np.int32))


def _shuffled_rounds(size, count, rng):
    """Return `count` row numbers: every row once in random order, then again, and so on."""
    rounds = [rng.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(rounds)[:count]
