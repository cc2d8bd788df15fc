"""The data and the network of the two studies on scikit-learn's handwritten digits.

Everything is a pure function of a random key, so that a study vmaps over its seeds.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from sklearn.datasets import load_digits

NUM_CLASSES = 10


def load() -> tuple[jax.Array, jax.Array]:
    """Return the 1797 images as rows of 64 pixels between 0 and 1, and their labels."""
    images, labels = load_digits(return_X_y=True)
    return jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels, jnp.int32)


def balanced_order(key: jax.Array, labels: jax.Array) -> jax.Array:
    """Return a random order whose first 10k entries hold k examples of each class, for every small k."""
    shuffled = jax.random.permutation(key, labels.shape[0])
    one_hot = jax.nn.one_hot(labels[shuffled], NUM_CLASSES, dtype=jnp.int32)
    rank = jnp.sum(jnp.cumsum(one_hot, axis=0) * one_hot, axis=1)
    return shuffled[jnp.argsort(rank * NUM_CLASSES + labels[shuffled])]


def corrupt(key: jax.Array, labels: jax.Array, noise: jax.Array | float) -> jax.Array:
    """Replace each label, with probability `noise`, by one of the nine wrong ones."""
    which, how = jax.random.split(key)
    wrong = (labels + jax.random.randint(how, labels.shape, 1, NUM_CLASSES)) % NUM_CLASSES
    return jnp.where(jax.random.uniform(which, labels.shape) < noise, wrong, labels)


def init(key: jax.Array, *, width: int = 128, scale: jax.Array | float = 1.0) -> list[dict[str, jax.Array]]:
    """Draw an MLP 64 → width → 10, with He's variance times `scale` squared."""
    sizes = (64, width, NUM_CLASSES)
    return [
        {
            "w": scale * jnp.sqrt(2.0 / fan_in) * jax.random.normal(layer_key, (fan_in, fan_out)),
            "b": jnp.zeros(fan_out),
        }
        for layer_key, fan_in, fan_out in zip(jax.random.split(key), sizes[:-1], sizes[1:], strict=True)
    ]


def logits(params: list[dict[str, jax.Array]], inputs: jax.Array) -> jax.Array:
    """Apply the MLP."""
    first, second = params
    return jax.nn.relu(inputs @ first["w"] + first["b"]) @ second["w"] + second["b"]


def cross_entropy(params: list[dict[str, jax.Array]], inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean cross-entropy."""
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits(params, inputs), labels))


def accuracy(params: list[dict[str, jax.Array]], inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the share of examples that are classified as labelled."""
    return jnp.mean(jnp.argmax(logits(params, inputs), axis=-1) == labels)


def are_weights(params: Any) -> Any:
    """Return a mask that is true at matrices and false at biases."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def record(train_steps: Callable[[Any, jax.Array], Any], start: Any, keys: jax.Array, measure: Callable[[Any], Any]):
    """Run `train_steps` once for every key, and return the final carry and what was measured after each run."""

    def chapter(carry, key):
        carry = train_steps(carry, key)
        return carry, measure(carry)

    return jax.lax.scan(chapter, start, keys)
