"""Losses with a front in closed form, and networks that read two things at once: the ground of `fronts`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mtlgrad_jax.demo import data

WIDTH = 12  # a trunk that is too narrow for both digits
OCTANT = np.pi / 6  # volume of an eighth of the unit ball, which the front of DTLZ2 bounds


def zdt(number, num_params=10):
    """Return ZDT1, 2 or 3 with x = sin²θ in place of its box, its second loss one higher so that rays reach it."""

    def losses(theta):
        x = jnp.sin(theta) ** 2
        first, scale = x[0], 1 + 9 * jnp.mean(x[1:])
        share = first / scale
        shape = {1: 1 - jnp.sqrt(share + 1e-12), 2: 1 - share**2}.get(number)
        if number == 3:
            shape = 1 - jnp.sqrt(share + 1e-12) - share * jnp.sin(10 * jnp.pi * first)
        return jnp.stack([first, scale * shape + (number == 3)])

    return losses


def zdt_front(number, share):
    shapes = {1: 1 - np.sqrt(share), 2: 1 - share**2}
    second = shapes.get(number, 2 - np.sqrt(share) - share * np.sin(10 * np.pi * share))
    return np.stack([share, second], axis=1)


def vlmop1(x):
    center = jnp.full_like(x, x.size**-0.5)
    return jnp.stack([jnp.sum((x - center) ** 2), jnp.sum((x + center) ** 2)]) / 4


def dtlz2(theta):
    """Return DTLZ2 with three losses, x = sin²θ in place of its box: an eighth of a sphere."""
    x = jnp.sin(theta) ** 2
    radius, (first, second) = 1 + jnp.sum((x[2:] - 0.5) ** 2), jnp.pi / 2 * x[:2]
    shape = [jnp.cos(first) * jnp.cos(second), jnp.cos(first) * jnp.sin(second), jnp.sin(first)]
    return radius * jnp.stack(shape)


def overlapping_digits(seed, num_pairs):
    train_digits, test_digits = data.split_digits(seed)
    rng = np.random.default_rng(seed)
    parts = [data.overlap(digits, count, rng) for digits, count in ((train_digits, num_pairs), (test_digits, 2000))]
    return [(pairs.canvases.reshape(len(pairs.canvases), -1), pairs.labels) for pairs in parts]


def overlapping_signals(seed, num_pairs):
    """Return sums of two signals of MNIST-1D, the second a third later, with the labels of both."""
    from mnist1d.data import get_dataset_args, make_dataset

    arguments = get_dataset_args()
    arguments.seed, arguments.num_samples, arguments.max_translation = seed, 5000, 16
    made = make_dataset(arguments)
    rng = np.random.default_rng(seed)

    def pairs(signals, labels, count):
        left, right = rng.integers(0, len(labels), (2, count))
        canvas = np.zeros((count, 54), np.float32)
        canvas[:, :40] += signals[left]
        canvas[:, 14:] += signals[right]
        return canvas, np.stack([labels[left], labels[right]], axis=1).astype(np.int32)

    return [pairs(made["x"], made["y"], num_pairs), pairs(made["x_test"], made["y_test"], 2000)]


GROUNDS = {"overlapping digits": overlapping_digits, "overlapping signals": overlapping_signals}


def start(key, num_inputs):
    sizes = (num_inputs, WIDTH, 2 * data.NUM_CLASSES)
    return [
        {"w": jnp.sqrt(2 / fan_in) * jax.random.normal(layer, (fan_in, fan_out)), "b": jnp.zeros(fan_out)}
        for layer, fan_in, fan_out in zip(jax.random.split(key), sizes[:-1], sizes[1:], strict=True)
    ]


def two_heads(params, inputs, labels):
    """Return the cross-entropies of the left and the right digit."""
    first, second = params
    logits = jax.nn.relu(inputs @ first["w"] + first["b"]) @ second["w"] + second["b"]
    logits = logits.reshape(*logits.shape[:-1], 2, data.NUM_CLASSES)
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels), axis=0)
