"""The networks of the two studies on physics-informed networks, and their derivatives in one forward pass.

Reverse mode through reverse mode is what makes such networks slow. Here value, gradient and second derivatives go
through the layers together, as four rows of one matrix product per layer.
"""

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


def derivatives(params: list[dict[str, jax.Array]], points: jax.Array, curvature: tuple[float, float]) -> jax.Array:
    """Return u, ∂₁u, ∂₂u and c₁∂₁²u + c₂∂₂²u, shape `(4, N)`, with c the `curvature`.

    L tanh(z) = tanh′(z) Lz + tanh″(z) Σ cᵢ(∂ᵢz)²,  L = Σ cᵢ∂ᵢ²
    """
    ones, zeros = jnp.ones(points.shape[0]), jnp.zeros(points.shape[0])
    first, second = jnp.stack([ones, zeros], axis=1), jnp.stack([zeros, ones], axis=1)
    rows = jnp.stack([points, first, second, jnp.zeros_like(points)])
    for layer in params[:-1]:
        value, first, second, curved = rows @ layer["w"]
        value = jnp.tanh(value + layer["b"])
        slope = 1 - value**2
        squares = curvature[0] * first**2 + curvature[1] * second**2
        curved = slope * (curved - 2 * value * squares)
        rows = jnp.stack([value, slope * first, slope * second, curved])
    return (rows @ params[-1]["w"])[..., 0].at[0].add(params[-1]["b"][0])


def latin_hypercube(key: jax.Array, num_points: int, num_dimensions: int) -> jax.Array:
    """Draw points in the unit cube, shape `(num_points, num_dimensions)`, one in every slice of every dimension."""
    order_key, place_key = jax.random.split(key)
    slices = jnp.argsort(jax.random.uniform(order_key, (num_points, num_dimensions)), axis=0)
    return (slices + jax.random.uniform(place_key, slices.shape)) / num_points
