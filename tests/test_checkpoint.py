"""Stopping, saving with Orbax and resuming in the middle of training gives the same trajectory, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest

import mtlgrad_jax as mtl

pytestmark = [
    pytest.mark.standard_promotion,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Orbax's own dependencies
    pytest.mark.filterwarnings("ignore::UserWarning:orbax"),
]

METHODS = {
    "mgda": lambda: mtl.mgda(num_tasks=3),
    "pcgrad": lambda: mtl.pcgrad(num_tasks=3),
    "gradvac": lambda: mtl.gradvac(num_tasks=3),
}


@pytest.mark.parametrize("name", METHODS)
def test_resume_is_bit_for_bit(name, tmp_path):
    rng = np.random.default_rng(0)
    x, y = (
        jnp.asarray(rng.standard_normal((16, 4)), jnp.float32),
        jnp.asarray(rng.standard_normal((16, 3)), jnp.float32),
    )
    tx = optax.chain(METHODS[name](), optax.adam(optax.cosine_decay_schedule(1e-2, 20)))

    @jax.jit
    def step(params, state):
        losses_fn = lambda params: jnp.mean((jnp.tanh(x @ params) - y) ** 2, axis=0)
        _, task_grads = mtl.task_value_and_grad(losses_fn)(params)
        updates, state = tx.update(task_grads, state, params)
        return optax.apply_updates(params, updates), state

    params = jnp.asarray(rng.standard_normal((4, 3)), jnp.float32)
    state = tx.init(params)
    for _ in range(5):
        params, state = step(params, state)
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "middle", (params, state))
        checkpointer.wait_until_finished()
        template = jax.eval_shape(lambda: (params, state))
        restored = checkpointer.restore(tmp_path / "middle", template)

    straight, resumed = (params, state), restored
    for _ in range(5):
        straight, resumed = step(*straight), step(*resumed)
    assert jax.tree.structure(straight) == jax.tree.structure(resumed)
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
