"""The networks of the two studies on physics-informed networks, and their derivatives in one forward pass.

Reverse mode through reverse mode is what makes such networks slow. Here value, gradient and second derivatives go
through the layers together.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import optax

import mtlgrad_jax as mtl


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


def equal_lengths(gram: jax.Array) -> jax.Array:
    """Weigh losses so that their gradients are as long as the mean one: the gradient norms of jaxpi.

    wᵢ = meanⱼ‖gⱼ‖/‖gᵢ‖
    """
    return over_the_mean(jnp.sqrt(jnp.diagonal(gram)))


def over_the_mean(sizes: jax.Array) -> jax.Array:
    """Return the mean over each of some sizes, and one where a size is zero."""
    return jnp.where(sizes > 0, jnp.mean(sizes) / jnp.where(sizes > 0, sizes, 1), 1)


def handed(gram: jax.Array, *, fresh: jax.Array) -> jax.Array:
    """Take the weights that were computed from something else than G, and handed to the step as `fresh`."""
    return fresh.astype(gram.dtype)


def averaged(weighting, *, every: int = 1):
    """Average weights as jaxpi does, from one and with .9 for those of before, each time that they are computed."""
    return mtl.weightings.every_k(mtl.weightings.smoothed(weighting, alpha=0.9, start=1.0), every)


def kernel_traces(residuals, params, points) -> jax.Array:
    """Return the mean squared length of the gradient of the residual at a point, one per loss, shape `(T,)`.

    That is the trace of the neural tangent kernel over the number of points. Neither the kernel nor the gradient at a
    point is formed.

    Args:
      residuals: T functions `residual(params, point)`, whose squared mean is the loss.
      params: Of the network.
      points: T arrays `(N, ...)` of points.
    """
    linearize = mtl.jacobians.per_example.linearize
    held = [linearize(residual, params, at)[1] for residual, at in zip(residuals, points, strict=True)]
    return jnp.stack([jnp.mean(jac.row_lengths() ** 2) for jac in held])


def annealing(task_grads, interior: int) -> jax.Array:
    """Return Wang's weights: the largest entry of the gradient of the equation's residual over the mean of each.

    wᵢ = max|g_r|/mean|gᵢ|,   w_r = 1

    Args:
      task_grads: Leaves `(T, ...)`.
      interior: r, the row of the equation.
    """
    sizes = jnp.concatenate([jnp.abs(leaf).reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(task_grads)], axis=1)
    means = jnp.mean(sizes, axis=1)
    ratios = jnp.max(sizes[interior]) / jnp.where(means > 0, means, 1)
    return jnp.where(means > 0, ratios, 1).at[interior].set(1)


def directions(every: int) -> dict:
    """Return the ways to weigh losses that others use for physics, as factories, the first three averaged.

    Args:
      every: Steps between two computations of the first three.
    """
    return {
        "gradient norms": partial(mtl.aggregate, averaged(equal_lengths, every=every)),
        "NTK": partial(mtl.aggregate, averaged(handed, every=every)),
        "annealing": partial(mtl.aggregate, averaged(handed, every=every)),
        "ReLoBRaLo": mtl.relobralo,
        "SoftAdapt": partial(mtl.softadapt, variant="normalized"),
        "self-adaptive": mtl.self_adaptive,
    }


def loss_of(residual, draw):
    """Return the mean squared residual at random points, a function of the parameters and a key."""
    return lambda params, key: jnp.mean(residual(params, draw(key)) ** 2)


def fresh_weights(method, params, key, residuals, draws, *, interior: int, num_points: int = 200) -> jax.Array:
    """Return the weights that are computed from something else than G, for the steps until they are computed again.

    Args:
      method: One of `directions`.
      params: Of the network.
      key: For the points.
      residuals: T functions `residual(params, points)`.
      draws: T functions of a key that return points.
      interior: Which of them is that of the equation.
      num_points: At which the traces of the kernel are taken.
    """
    if method == "NTK":
        at_a_point = [lambda params, point, of=of: of(params, point[None])[0] for of in residuals]
        return over_the_mean(kernel_traces(at_a_point, params, [draw(key)[:num_points] for draw in draws]))
    if method == "annealing":
        losses = [loss_of(*terms) for terms in zip(residuals, draws, strict=True)]
        keys = list(jax.random.split(key, len(losses)))
        return annealing(mtl.separate_value_and_grad(losses)(params, keys)[1], interior)
    return jnp.ones(len(residuals))


def finish(losses_fn, params, weights: jax.Array, *, num_steps: int):
    """Finish a training by L-BFGS, with the weights that a method ended with, on points that stay.

    A line search compares values along a direction, and L-BFGS gradients of different steps, so all must be of one
    function: the value that goes with the direction Jᵀw is Σ wᵢLᵢ, and w does not change any more.

    Args:
      losses_fn: Function of the parameters alone, returning losses of shape `(T,)`.
      params: Of the network.
      weights: w, shape `(T,)`, `state.weights` of an aggregation after its last step.
      num_steps: Of L-BFGS; each evaluates the losses a few times.

    Returns:
      The parameters, and Σ wᵢLᵢ before every step.
    """
    optimizer, weighted = optax.lbfgs(), lambda params: losses_fn(params) @ weights
    value_and_grad = optax.value_and_grad_from_state(weighted)  # the line search has them already

    def step(carry, _):
        params, state = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=weighted)
        return (optax.apply_updates(params, updates), state), value

    (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), length=num_steps)
    return params, values


def latin_hypercube(key: jax.Array, num_points: int, num_dimensions: int) -> jax.Array:
    """Draw points in the unit cube, shape `(num_points, num_dimensions)`, one in every slice of every dimension."""
    order_key, place_key = jax.random.split(key)
    slices = jnp.argsort(jax.random.uniform(order_key, (num_points, num_dimensions)), axis=0)
    return (slices + jax.random.uniform(place_key, slices.shape)) / num_points


def stored(path, methods):
    """Return the rows of a stored study, and the methods that it lacks."""
    rows = json.loads(path.read_text())["rows"]
    return rows, tuple(method for method in methods if method not in {row["method"] for row in rows})


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
