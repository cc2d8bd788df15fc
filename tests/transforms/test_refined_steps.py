"""`refine=True`: past the precision of G whatever holds J, and for nothing where G suffices."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import stacked
from mtlgrad_jax.typing import Method, Solution

# |u*| is 1e-4 of the longest; the first two rows agree on e, and the third is out of the way
OPPOSED = np.array([[1, 1e-4, 0, 0], [-1, 1e-4, 2e-4, 0], [1, 3e-4, 1e-4, 3e-4]], np.float32)
ORDINARY = np.array([[1, 1, 0, 0], [-1, 1, 1, 0], [0, 1, 0, 2]], np.float32)


def excess_of(weights, rows=OPPOSED):
    """Return by how much ‖u‖² is over the optimum of the first two rows, whose third has no weight."""
    rows, weights = rows.astype(np.float64), np.asarray(weights, np.float64)
    first, second = rows[:2]
    share = np.clip(second @ (second - first) / ((second - first) @ (second - first)), 0, 1)
    best = share * first + (1 - share) * second
    assert np.all(rows @ best >= (1 - 1e-6) * (best @ best))
    return weights @ rows @ rows.T @ weights / (best @ best) - 1


@partial(jax.jit, static_argnums=(2, 3))
def step(rows, present, make, refine):
    tx = make(4, refine=refine)
    return tx.update({"w": rows}, tx.init({"w": rows[0]}), present=present)


def test_an_absent_task_and_a_short_direction():
    rows = jnp.asarray(np.concatenate([OPPOSED, np.full((1, 4), np.nan, np.float32)]))
    present = jnp.array([True, True, True, False])
    with jax.debug_nans(False):
        _, state = step(rows, present, mtl.mgda, False)
        update, refined = step(rows, present, mtl.mgda, True)
    assert excess_of(state.weights[:3]) > 1e-2
    assert excess_of(refined.weights[:3]) <= 1e-5 and refined.weights[3] == 0
    assert state.gap < 1e-6 and 1e-5 < refined.gap < 1e-2  # of the longest, of u itself
    np.testing.assert_allclose(update["w"], OPPOSED.T @ refined.weights[:3], atol=2e-7)


@pytest.mark.parametrize("nonfinite", ["skip", "drop_task"])
def test_a_broken_task_beside_a_short_direction(nonfinite):
    rows = jnp.asarray(np.concatenate([OPPOSED, np.full((1, 4), np.nan, np.float32)]))
    tx = mtl.mgda(4, refine=True, nonfinite=nonfinite)
    update, state = jax.jit(tx.update)({"w": rows}, tx.init({"w": rows[0]}))
    if nonfinite == "skip":
        assert not np.any(update["w"]) and not np.any(state.weights)
    else:
        assert excess_of(state.weights[:3]) <= 1e-5 and state.weights[3] == 0
    assert state.num_nonfinite.tolist() == [0, 0, 0, 1]


@dataclass(frozen=True)
class Counting:
    """Rows that tell how often they are pushed."""

    task_grads: jax.Array
    pushed: list

    def gram(self):
        return stacked.gram(self.task_grads)

    def scaled_gram(self):
        return stacked.scaled_gram(self.task_grads)

    def combine(self, weights, *, keep=None):
        return stacked.combine(self.task_grads, weights, keep=keep)

    def push(self, direction):
        jax.debug.callback(lambda: self.pushed.append(None))
        return stacked.push(self.task_grads, direction)


def test_nothing_is_read_again_where_the_gram_matrix_suffices_and_members_keep_their_own():
    pushed = []
    method = mtl.step.ready(Method(mtl.weightings.mgda, refine=mtl.solvers.refine))

    @jax.jit
    @jax.vmap
    def members(rows):
        taken = mtl.step.take(method, Counting(rows, pushed), ())
        return taken.weights, taken.gap

    ordinary, _ = members(jnp.asarray([ORDINARY, ORDINARY[::-1]]))
    jax.effects_barrier()
    assert len(pushed) == 0
    mixed, gaps = members(jnp.asarray([ORDINARY, OPPOSED]))
    jax.effects_barrier()
    assert len(pushed) >= 3
    np.testing.assert_array_equal(mixed[0], ordinary[0])
    assert excess_of(mixed[1]) <= 1e-5 and gaps[0] < 1e-5 and gaps[1] < 1e-2


def asked(gram, weights, products):
    """A `refine` whose gap is by how much J and G differ."""
    return Solution(weights, jnp.max(jnp.abs(products(jnp.eye(len(weights))) - gram)) / jnp.max(gram), 0)


ASKS = Method(lambda gram: jnp.ones_like(gram[0]) / len(gram), num_primary=1, refine=asked)
BATCH = (jnp.linspace(-1, 1, 24).reshape(6, 4), jnp.sin(jnp.arange(18.0)).reshape(6, 3))


@pytest.mark.parametrize("present", [None, (True, False, True)])
@pytest.mark.parametrize("scale", [1.0, 1e-28])
@pytest.mark.parametrize("way", ["stacked", "matrix_free", "structured", "shared_encoder", "per_example"])
def test_every_way_to_hold_j_offers_products(way, scale, present):
    params = {"encoder": jnp.cos(jnp.arange(20.0)).reshape(4, 5), "heads": jnp.sin(jnp.arange(15.0)).reshape(5, 3)}
    encoder_fn = lambda encoder, batch: jnp.tanh(batch[0] @ encoder)
    heads_fn = lambda heads, hidden, batch: jnp.mean((hidden @ heads - batch[1]) ** 2, axis=0) * scale
    losses_fn = lambda params, batch: heads_fn(params["heads"], encoder_fn(params["encoder"], batch), batch)
    loss_fn = lambda params, example: jnp.mean(losses_fn(params, jax.tree.map(lambda leaf: leaf[None], example)))
    functions = {"shared_encoder": (encoder_fn, heads_fn), "per_example": loss_fn}.get(way, losses_fn)
    batch = jax.tree.map(lambda leaf: leaf[:3], BATCH) if way == "per_example" else BATCH
    present = None if present is None else jnp.array(present)
    found = jax.jit(lambda params: mtl.descent_direction(functions, params, ASKS, batch, method=way, present=present))
    assert found(params)[2].gap < 1e-6


def test_half_precision_rows_are_multiplied_in_single():
    rows = jnp.asarray(OPPOSED + 0.3).astype(jnp.bfloat16)
    assert mtl.aggregate(ASKS, 3).update(rows, mtl.aggregate(ASKS, 3).init(rows[0]))[1].gap < 1e-6


@pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; see XLA_FLAGS in conftest.py")
def test_leaves_that_are_split_over_devices():
    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    tx = mtl.mgda(3, axis_name="model", refine=True)

    def update(rows):
        return tx.update(rows, tx.init(rows[0]))[1]

    over = jax.jit(jax.shard_map(update, mesh=mesh, in_specs=P(None, "model"), out_specs=P()))
    state = over(jnp.asarray(OPPOSED))
    assert excess_of(state.weights) <= 1e-5 and state.gap < 1e-2


@pytest.mark.parametrize("make", [mtl.mgda, mtl.primary_aux])
def test_what_refine_is_not(make):
    with pytest.raises(ValueError, match="expected refine to be True or False, got 2; with optax.inject_hyperparams"):
        make(refine=2)
    injected = optax.inject_hyperparams(make, static_args=("num_tasks", "refine"))
    assert injected(num_tasks=2, refine=True).init(jnp.zeros(2)).inner_state.weights.shape == (2,)


def test_a_normalisation_is_not_refined():
    for options in ({"normalization": "l2"}, {"preference": (1.0, 2.0)}):
        with pytest.raises(ValueError, match="mgda expected refine=False with normalization="):
            mtl.mgda(refine=True, **options)
