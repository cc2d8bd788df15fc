"""Plain JAX: a physics-informed network whose equation and boundary are two tasks, and L-BFGS to finish.

u″ + 9π²u = 5π² sin(2πx) on [0, 1], with u(0) = u(1) = 0 and u′(0) = 2π: the solution is sin(2πx).
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from jax.lax import scan

import mtlgrad_jax as mtl

POINTS = jnp.linspace(0, 1, 65)


def init(key, sizes=(1, 32, 32, 1)):
    draw, keys = jax.nn.initializers.glorot_normal(), jax.random.split(key, len(sizes) - 1)
    return [(draw(k, (m, n)), jnp.zeros(n)) for k, m, n in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def u(params, x):
    hidden = x[None]
    for weights, bias in params[:-1]:
        hidden = jnp.tanh(hidden @ weights + bias)
    return (hidden @ params[-1][0] + params[-1][1])[0]


def losses_fn(params):
    slope = jax.grad(u, argnums=1)
    curvature = jax.vmap(jax.grad(slope, argnums=1), (None, 0))(params, POINTS)
    residual = curvature + jnp.pi**2 * (9 * jax.vmap(u, (None, 0))(params, POINTS) - 5 * jnp.sin(2 * jnp.pi * POINTS))
    boundary = u(params, POINTS[0]) ** 2 + u(params, POINTS[-1]) ** 2 + (slope(params, POINTS[0]) - 2 * jnp.pi) ** 2
    return jnp.stack([jnp.mean(residual**2), boundary])


def adam(params, method, num_steps):
    tx = optax.chain(method, optax.adam(optax.cosine_decay_schedule(5e-3, num_steps)))

    def step(carry, _):
        params, state = carry
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
        updates, state = tx.update(task_grads, state, params, losses=losses)
        return (optax.apply_updates(params, updates), state), losses

    (params, state), losses = jax.jit(lambda carry: scan(step, carry, length=num_steps))((params, tx.init(params)))
    return params, state[0].weights, losses


def lbfgs(params, weights, num_steps):
    tx, weighted = optax.lbfgs(), lambda params: weights @ losses_fn(params)

    def step(carry, _):  # weights stay as they are: what L-BFGS remembers is the curvature of one function
        params, state = carry
        value, grad = jax.value_and_grad(weighted)(params)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=weighted)
        return (optax.apply_updates(params, updates), state), losses_fn(params)

    (params, _), losses = jax.jit(lambda carry: scan(step, carry, length=num_steps))((params, tx.init(params)))
    return params, losses


def main(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--method", default="upgrad")
    args = parser.parse_args(argv)
    error = lambda params: jnp.max(jnp.abs(jax.vmap(u, (None, 0))(params, POINTS) - jnp.sin(2 * jnp.pi * POINTS)))
    params, weights, first = adam(init(jax.random.key(0)), getattr(mtl, args.method)(num_tasks=2), args.steps)
    print(f"Adam, {args.method}: equation, boundary {first[-1]}, largest error {error(params):.4f}, weights {weights}")
    params, last = lbfgs(params, weights, max(args.steps // 5, 1))
    print(f"L-BFGS, these weights: equation, boundary {last[-1]}, largest error {error(params):.4f}")
    return first[0].tolist(), last[-1].tolist()


if __name__ == "__main__":
    main()
