"""What a problem of the demo consists of: two losses, what to draw batches from, and what to judge by."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from mtlgrad_jax.typing import PyTree

NO_ERROR = 1e-6  # what an error of zero, a share of one, counts as in ratios and on a logarithmic axis


class Problem(NamedTuple):
    """Two losses of one network. What depends on the seed is in `data`, whose leaves have a leading axis of seeds."""

    tasks: tuple[str, str]
    judged: tuple[str, str]  # names of the two losses that are looked at on held-out data
    errors: tuple[str, ...]  # names of the errors, shares of one
    learning_rate: float
    data: PyTree
    init: Callable[[jax.Array], PyTree]  # key -> params
    draw: Callable[[PyTree, jax.Array], PyTree]  # (data of a seed, key) -> batch
    everything: Callable[[PyTree], PyTree]  # data of a seed -> one large batch
    losses: Callable[[PyTree, PyTree], jax.Array]  # (params, batch) -> (2,)
    gradients: Callable[[PyTree, PyTree], tuple[jax.Array, PyTree]]  # (params, batch) -> losses, stacked gradients
    judge: Callable[[PyTree, PyTree], tuple[jax.Array, jax.Array]]  # (params, data of a seed) -> losses, errors
    show: Callable[[PyTree, PyTree], jax.Array]  # (params, data of a seed) -> what the picture is made of
    picture: Callable  # (figure, from name of run to what it shows, data of a seed)
