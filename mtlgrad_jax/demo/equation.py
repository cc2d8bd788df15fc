"""Helmholtz' equation by a physics-informed network: one loss for the equation, one for the boundary.

Δu + u = f on [−1, 1]²,  u = 0 on the boundary;  f is that of u = sin πx · sin 2πy

The equation's loss has second derivatives in it and is thousands of times longer than the boundary's. A gradient of
their sum is that of the equation, which many functions solve; the boundary, which tells the right one, has no say.
"""

from functools import partial
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import mtlgrad_jax as mtl
from mtlgrad_jax.demo import pictures
from mtlgrad_jax.demo.problem import Problem
from mtlgrad_jax.typing import PyTree

FREQUENCIES = (1, 2)
NUM_INSIDE, NUM_PER_SIDE = 128, 16  # points in a batch
NUM_EVERYTHING = 4096
LEARNING_RATE = 5e-3
SPREAD = 3**-0.5  # standard deviation of a coordinate that is uniform on [−1, 1]
GRID = 61  # places along each axis where the solution is judged


class Field(nn.Module):
    """A function u(x, y).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mtlgrad_jax.demo.equation import Field
      >>> params = Field().init(jax.random.key(0), jnp.zeros((1, 2)))
      >>> Field().apply(params, jnp.zeros((5, 2))).shape
      (5,)
    """

    width: int = 32
    depth: int = 3

    @nn.compact
    def __call__(self, points: jax.Array) -> jax.Array:
        """Return u, shape `(n,)`, at points of shape `(n, 2)`."""
        dense = partial(nn.Dense, kernel_init=nn.initializers.glorot_normal())
        hidden = points / SPREAD
        for _ in range(self.depth):
            hidden = nn.tanh(dense(self.width)(hidden))
        return dense(1)(hidden)[:, 0]


def make() -> Problem:
    """Make the problem; its points are drawn anew in every step, so that no data depend on the seed.

    Returns:
      The problem.

    Example:
      >>> from mtlgrad_jax.demo import equation
      >>> equation.make().errors
      ('error of the solution',)
    """
    return Problem(
        tasks=("equation", "boundary"),
        judged=("equation", "boundary"),
        errors=("error of the solution",),
        learning_rate=LEARNING_RATE,
        data=(),
        init=lambda key: Field().init(key, jnp.zeros((1, 2))),
        draw=lambda data, key: draw(key, NUM_INSIDE, NUM_PER_SIDE),
        everything=lambda data: draw(jax.random.key(0), NUM_EVERYTHING, NUM_EVERYTHING // 4),
        losses=losses,
        gradients=lambda params, batch: mtl.separate_value_and_grad((equation_loss, boundary_loss))(params, batch),
        judge=judge,
        show=lambda params, data: solution(params, grid()).reshape(GRID, GRID),
        picture=lambda figure, shown, data: pictures.fields(
            figure, {"exact": exact(grid()).reshape(GRID, GRID)} | shown
        ),
    )


def solution(params: PyTree, points: jax.Array) -> jax.Array:
    """Return the network's u, shape `(n,)`, at points of shape `(n, 2)`."""
    return cast(jax.Array, Field().apply(params, points))


def exact(points: jax.Array) -> jax.Array:
    """Return sin πx · sin 2πy."""
    return jnp.prod(jnp.sin(jnp.pi * points * jnp.array(FREQUENCIES, points.dtype)), axis=1)


def source(points: jax.Array) -> jax.Array:
    """Return f, which makes `exact` the solution."""
    return (1 - sum(frequency**2 for frequency in FREQUENCIES) * jnp.pi**2) * exact(points)


def laplacian(field, points: jax.Array) -> jax.Array:
    """Return Δu, shape `(n,)`, forward through the network twice for each coordinate.

    Example:
      >>> import jax.numpy as jnp
      >>> from mtlgrad_jax.demo import equation
      >>> equation.laplacian(lambda points: points[:, 0] ** 3 + points[:, 1] ** 2, jnp.array([[1.0, 5.0]]))
      Array([8.], dtype=float32)
    """

    def curvature(unit):
        along = jnp.broadcast_to(unit, points.shape)
        return jax.jvp(lambda places: jax.jvp(field, (places,), (along,))[1], (points,), (along,))[1]

    return curvature(jnp.array([1.0, 0.0])) + curvature(jnp.array([0.0, 1.0]))


def equation_loss(params: PyTree, points: jax.Array) -> jax.Array:
    """Return the mean square of Δu + u − f."""
    field = partial(solution, params)
    return jnp.mean((laplacian(field, points) + field(points) - source(points)) ** 2)


def boundary_loss(params: PyTree, points: jax.Array) -> jax.Array:
    """Return the mean square of u on the boundary, the four sides added up."""
    return 4 * jnp.mean(solution(params, points) ** 2)


def losses(params: PyTree, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Return both losses, shape `(2,)`."""
    inside, boundary = batch
    return jnp.stack([equation_loss(params, inside), boundary_loss(params, boundary)])


def judge(params: PyTree, data: PyTree) -> tuple[jax.Array, jax.Array]:
    """Return both losses on points of their own, and ‖u − exact‖/‖exact‖ on a grid, shape `(1,)`."""
    points = grid()
    wrong = jnp.linalg.norm(solution(params, points) - exact(points)) / jnp.linalg.norm(exact(points))
    return losses(params, draw(jax.random.key(1), 1024, 256)), wrong[None]


def draw(key: jax.Array, num_inside: int, num_per_side: int) -> tuple[jax.Array, jax.Array]:
    """Draw points in the square and on its sides.

    Example:
      >>> import jax
      >>> from mtlgrad_jax.demo import equation
      >>> [points.shape for points in equation.draw(jax.random.key(0), 5, 2)]
      [(5, 2), (8, 2)]
    """
    inside_key, side_key = jax.random.split(key)
    inside = jax.random.uniform(inside_key, (num_inside, 2), minval=-1, maxval=1)
    along = jax.random.uniform(side_key, (4, num_per_side), minval=-1, maxval=1)
    end = jnp.broadcast_to(jnp.array([-1.0, 1.0, -1.0, 1.0])[:, None], along.shape)
    upright = jnp.stack([end[:2], along[:2]], axis=-1)
    level = jnp.stack([along[2:], end[2:]], axis=-1)
    return inside, jnp.concatenate([upright, level]).reshape(-1, 2)


def grid() -> jax.Array:
    """Return the places where the solution is judged, shape `(GRID², 2)`, row by row in y."""
    places = np.linspace(-1, 1, GRID, dtype=np.float32)
    return jnp.asarray(np.stack(np.meshgrid(places, places), axis=-1).reshape(-1, 2))
