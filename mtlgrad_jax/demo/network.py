"""A shared trunk with two heads, in Flax."""

import flax.linen as nn
import jax

from mtlgrad_jax.demo.data import NUM_CLASSES


class TwoHeads(nn.Module):
    """Read the left and the right digit of a canvas with one trunk.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from mtlgrad_jax.demo.network import TwoHeads
      >>> network = TwoHeads()
      >>> params = network.init(jax.random.key(0), jnp.zeros((1, 8, 12)))
      >>> [logits.shape for logits in network.apply(params, jnp.zeros((5, 8, 12)))]
      [(5, 10), (5, 10)]
    """

    width: int = 64

    @nn.compact
    def __call__(self, canvases: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the logits of the left and of the right digit, each `(n, 10)`."""
        trunk = canvases.reshape(canvases.shape[0], -1)
        trunk = nn.relu(nn.Dense(self.width, name="trunk_1")(trunk))
        trunk = nn.relu(nn.Dense(self.width, name="trunk_2")(trunk))
        return nn.Dense(NUM_CLASSES, name="left")(trunk), nn.Dense(NUM_CLASSES, name="right")(trunk)
