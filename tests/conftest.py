"""The strictest JAX there is: no silent rank promotion, and no dtype promotion outside Optax."""

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def strict_dtypes(request):
    """Forbid implicit dtype promotion, except where a test says that Optax or a framework needs it."""
    mode = "standard" if request.node.get_closest_marker("standard_promotion") else "strict"
    with jax.numpy_dtype_promotion(mode):
        yield
