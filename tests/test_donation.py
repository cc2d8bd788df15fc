"""A train step may donate parameters and optimizer state: every buffer is reused, and nothing else changes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import PLAIN
from test_catalogue import num_tasks_of

import mtlgrad_jax as mtl

NUM_TASKS = 3
RNG = np.random.default_rng(0)
X, Y = (jnp.asarray(RNG.standard_normal((16, width)), jnp.float32) for width in (4, NUM_TASKS))
START = {
    "trunk": RNG.standard_normal((4, 8)).astype(np.float32),
    "head": RNG.standard_normal((8, 3)).astype(np.float32),
}
OPTIMIZERS = {
    "mgda": lambda: optax.chain(mtl.mgda(NUM_TASKS), optax.adam(1e-2)),
    "accumulated": lambda: mtl.accumulate(
        optax.chain(mtl.clip_task_norms(0.1), mtl.mean(NUM_TASKS), optax.adam(1e-2)), 2, NUM_TASKS
    ),
    "gradvac": lambda: optax.chain(mtl.gradvac(NUM_TASKS), optax.adam(1e-2)),
    "excess_mtl": lambda: optax.chain(mtl.excess_mtl(NUM_TASKS), optax.adam(1e-2)),
}


def losses_fn(params):
    return jnp.mean((jnp.tanh(X @ params["trunk"]) @ params["head"] - Y) ** 2, axis=0)


def train_step(tx):
    def step(params, state):
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(params)
        updates, state = tx.update(task_grads, state, params)
        return optax.apply_updates(params, updates), state, losses

    return step


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_donating_step_reuses_every_buffer_and_takes_the_same_path(name):
    tx = OPTIMIZERS[name]()
    plain = jax.jit(train_step(tx))
    donating = jax.jit(train_step(tx), donate_argnums=(0, 1), keep_unused=True)
    params = jax.tree.map(jnp.asarray, START)
    kept, given = (params, tx.init(params)), (jax.tree.map(jnp.copy, params), tx.init(params))

    compiled = donating.lower(*given).compile()
    (aliases,) = re.findall(r"input_output_alias=\{(.*?)\}, entry", compiled.as_text())
    reused = {int(number) for number in re.findall(r": \((\d+),", aliases)}
    assert reused == set(range(len(jax.tree.leaves(given))))

    for _ in range(4):
        *kept, losses = plain(*kept)
        before = given
        *given, same_losses = compiled(*given)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
        np.testing.assert_array_equal(same_losses, losses)
    jax.tree.map(np.testing.assert_array_equal, given, kept)


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_no_two_leaves_of_a_state_share_a_buffer(case):
    """XLA refuses to donate one buffer twice."""
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    tx = case.make(num_tasks_of(case))
    leaves = jax.tree.leaves((params, tx.init(params)))
    buffers = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(set(buffers)) == len(buffers)
