"""The networks of the two studies on physics-informed networks, and their derivatives in one forward pass.

Reverse mode through reverse mode is what makes such networks slow. Here value, gradient and second derivatives go
through the layers together.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp


def init(key: jax.Array, sizes: tuple[int, ...], *, bias: float = 0.0) -> list[dict[str, jax.Array]]:
    """Draw an MLP with Glorot's normal weights and constant biases."""
    keys = jax.random.split(key, len(sizes) - 1)
    draw = jax.nn.initializers.glorot_normal()
    return [
        {"w": draw(layer_key, (fan_in, fan_out)), "b": jnp.full(fan_out, bias)}
        for layer_key, fan_in, fan_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]


def apply(params: list[dict[str, jax.Array]], points: jax.Array) -> jax.Array:
    """Return u, shape `(N,)`, at points of shape `(N, 2)`; tanh between the layers."""
    hidden = points
    for layer in params[:-1]:
        hidden = jnp.tanh(hidden @ layer["w"] + layer["b"])
    return (hidden @ params[-1]["w"] + params[-1]["b"])[:, 0]


def derivatives(
    params: list[dict[str, jax.Array]], points: jax.Array, curvature: tuple[float, float]
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return u, ∂₁u, ∂₂u and c₁∂₁²u + c₂∂₂²u, four arrays of shape `(N,)`, with c the `curvature`.

    L tanh(z) = tanh′(z) Lz + tanh″(z) Σ cᵢ(∂ᵢz)²,  L = Σ cᵢ∂ᵢ²
    """
    ones, zeros = jnp.ones(points.shape[0]), jnp.zeros(points.shape[0])
    rows = points, jnp.stack([ones, zeros], axis=1), jnp.stack([zeros, ones], axis=1), jnp.zeros_like(points)
    for layer in params[:-1]:
        value, first, second, curved = (row @ layer["w"] for row in rows)
        value = jnp.tanh(value + layer["b"])
        slope = 1 - value**2
        squares = curvature[0] * first**2 + curvature[1] * second**2
        curved = slope * (curved - 2 * value * squares)
        rows = value, slope * first, slope * second, curved
    value, first, second, curved = ((row @ params[-1]["w"])[:, 0] for row in rows)
    return value + params[-1]["b"][0], first, second, curved


def latin_hypercube(key: jax.Array, num_points: int, num_dimensions: int) -> jax.Array:
    """Draw points in the unit cube, shape `(num_points, num_dimensions)`, one in every slice of every dimension."""
    order_key, place_key = jax.random.split(key)
    slices = jnp.argsort(jax.random.uniform(order_key, (num_points, num_dimensions)), axis=0)
    return (slices + jax.random.uniform(place_key, slices.shape)) / num_points


def study(train, summarize, *, num_seeds, methods, save, **sizes):
    """Return one row per method and seed, sorted by seed, handing all rows so far to `save` as they come.

    A training of such a small network is a loop of small kernels, which runs on one core: one runs on each.

    Args:
      train: Function of a key and the sizes, jitted once per method.
      summarize: Function from what `train` returns to the entries of a row; its entry "final" is printed.
      num_seeds: Number of seeds, from 0.
      methods: Names, handed to `train`.
      save: Function of the rows.
      **sizes: Handed to `train`.
    """
    trainers = {method: jax.jit(partial(train, method=method, **sizes)) for method in methods}

    def run(seed, method):
        start = time.perf_counter()
        row = {"method": method, "seed": seed} | summarize(jax.device_get(trainers[method](jax.random.key(seed))))
        return row, time.perf_counter() - start

    rows = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [(seed, method) for seed in range(num_seeds) for method in methods]
        for row, seconds in pool.map(run, *zip(*jobs, strict=True)):
            rows.append(row)
            save(rows)
            print(f"seed {row['seed']} {row['method']:16} {row['final']:.5f} {seconds:5.0f} s", flush=True)
    return rows
