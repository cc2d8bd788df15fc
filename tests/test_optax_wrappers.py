"""Optax's wrappers around a transformation that turns T gradients into one: what works, is refused, is silent.

A wrapper that compares what goes in with what comes out cannot hold an aggregation; around what follows it, it can.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib, transforms
from optax.experimental import aggregating

import mtlgrad_jax as mtl

pytestmark = pytest.mark.standard_promotion

RNG = np.random.default_rng(0)
PARAMS = {"w": jnp.ones((4, 5)), "b": jnp.ones(())}
TASK_GRADS = {
    "w": jnp.asarray(RNG.standard_normal((3, 4, 5)), jnp.float32),
    "b": jnp.asarray(RNG.standard_normal(3), jnp.float32),
}
ONLY_W = {"w": True, "b": False}
ONLY_B = {"w": False, "b": True}
ALWAYS = lambda step: step >= 0
STEP = optax.sgd(1.0)
LBFGS = optax.lbfgs(linesearch=optax.scale_by_backtracking_linesearch(3))


def tasks(**options):
    """Cheap, and neither linear nor dependent on a common scale."""
    return mtl.inverse_norm(3, **options)


WHOLE = optax.chain(tasks(), STEP)


def value_fn(params):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def behind(wrapped):
    """Return an optimiser in which the wrapper holds what follows the aggregation only."""
    return optax.chain(tasks(), wrapped)


def update_of(tx, task_grads=TASK_GRADS, **extras):
    tx = optax.with_extra_args_support(tx)
    return tx.update(task_grads, tx.init(PARAMS), PARAMS, **extras)[0]


def shapes_of(tree):
    return jax.tree.map(jnp.shape, tree)


PLAIN = update_of(WHOLE)


def lookahead():
    """Its parameters are a pair, and so is its update."""
    tx, params = optax.lookahead(WHOLE, sync_period=2, slow_step_size=0.5), optax.LookaheadParams.init_synced(PARAMS)
    return tx.update(TASK_GRADS, tx.init(params), params)[0].fast


SAME = {  # the update is that of the plain chain
    "accumulate": lambda: update_of(mtl.accumulate(WHOLE, 1, 3)),
    "add_noise of tasks": lambda: update_of(optax.chain(optax.add_noise(0.0, 0.5, 0), WHOLE)),
    "apply_if_finite behind": lambda: update_of(behind(optax.apply_if_finite(STEP, 3))),
    "clip_by_global_norm of tasks, scale-free method": lambda: update_of(
        optax.chain(optax.clip_by_global_norm(0.1), WHOLE)
    ),
    "conditionally_mask behind": lambda: update_of(behind(optax.conditionally_mask(STEP, ALWAYS))),
    "conditionally_transform behind": lambda: update_of(behind(optax.conditionally_transform(STEP, ALWAYS))),
    "flatten behind": lambda: update_of(behind(optax.flatten(STEP))),
    "inject_hyperparams": lambda: update_of(
        optax.inject_hyperparams(lambda rate: optax.chain(tasks(), optax.sgd(rate)))(rate=1.0)
    ),
    "keep_params_nonnegative behind": lambda: jax.tree.map(
        lambda new, old: jnp.where(1 + old > 0, new, old),
        update_of(optax.chain(WHOLE, optax.keep_params_nonnegative())),
        PLAIN,
    ),
    "lookahead": lookahead,
    "MultiSteps behind, one step": lambda: update_of(behind(optax.MultiSteps(STEP, 1).gradient_transformation())),
    "named_chain": lambda: update_of(optax.named_chain(("tasks", tasks()), ("step", STEP))),
    "nonfinite='skip'": lambda: update_of(optax.chain(tasks(nonfinite="skip"), STEP)),
    "process": lambda: update_of(aggregating.process(optax.identity(), tasks(), STEP)),
    "reduce_on_plateau": lambda: update_of(optax.chain(WHOLE, contrib.reduce_on_plateau()), value=jnp.ones(())),
    "sam, opaque": lambda: update_of(
        contrib.sam(WHOLE, optax.chain(mtl.sum(), contrib.normalize(), STEP), opaque_mode=True),
        grad_fn=lambda params, i: TASK_GRADS,
    ),
    "schedule_free": lambda: update_of(contrib.schedule_free(WHOLE, 1.0)),
    "snapshot behind": lambda: update_of(optax.chain(WHOLE, transforms.snapshot("u", lambda u, *_, **__: u))),
    "split_real_and_imaginary": lambda: update_of(contrib.split_real_and_imaginary(WHOLE)),
    "zero_nans of tasks": lambda: update_of(optax.chain(optax.zero_nans(), WHOLE)),
}


@pytest.mark.parametrize("name", SAME)
def test_works_and_changes_nothing(name):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), SAME[name](), PLAIN)


WORKS = {  # the update is another, of the parameters' shapes
    "adaptive_grad_clip behind": lambda: update_of(behind(optax.adaptive_grad_clip(0.1))),
    "clip_by_global_norm behind": lambda: update_of(behind(optax.clip_by_global_norm(0.1))),
    "clip_task_norms": lambda: update_of(optax.chain(mtl.clip_task_norms(0.1), WHOLE)),
    "freeze behind": lambda: update_of(behind(transforms.freeze(ONLY_B))),
    "lbfgs": lambda: update_of(
        behind(LBFGS), value=value_fn(PARAMS), grad=jax.grad(value_fn)(PARAMS), value_fn=value_fn
    ),
    "mechanize behind": lambda: update_of(behind(contrib.mechanize(STEP))),
    "partition": lambda: update_of(
        optax.partition({"shared": tasks(), "heads": mtl.sum()}, {"w": "shared", "b": "heads"})
    ),
    "partition, heads frozen": lambda: update_of(
        optax.partition(
            {"shared": tasks(), "heads": optax.chain(mtl.sum(), optax.set_to_zero())}, {"w": "shared", "b": "heads"}
        )
    ),
    "sam": lambda: update_of(contrib.sam(WHOLE, optax.chain(mtl.sum(), contrib.normalize(), STEP))),
}


@pytest.mark.parametrize("name", WORKS)
def test_works_on_the_parameters_shapes(name):
    update = WORKS[name]()
    assert shapes_of(update) == shapes_of(PARAMS)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(update))
    assert np.any(update["w"] != 0)


def test_what_partition_freeze_and_clipping_do_to_the_leaves():
    alone, _ = tasks().update({"w": TASK_GRADS["w"]}, tasks().init({"w": PARAMS["w"]}))
    for name, heads in (("partition", jnp.sum(TASK_GRADS["b"])), ("partition, heads frozen", 0)):
        update = WORKS[name]()
        np.testing.assert_allclose(update["w"], alone["w"], rtol=1e-5)
        np.testing.assert_allclose(update["b"], heads, rtol=1e-5)
    frozen = WORKS["freeze behind"]()
    np.testing.assert_allclose(frozen["w"], -PLAIN["w"], rtol=1e-5)
    assert frozen["b"] == 0
    np.testing.assert_allclose(optax.tree.norm(WORKS["clip_by_global_norm behind"]()), 0.1, rtol=1e-5)


class Refusal(NamedTuple):
    """A wrapper that cannot hold an aggregation, and the row above to use instead."""

    call: Callable[[], Any]
    error: type[Exception]
    sentence: str
    instead: str


CANNOT_TELL = {"error": TypeError, "sentence": "true_fun and false_fun|equal output types"}  # Optax fails by itself
REFUSED = {
    "MultiSteps": Refusal(
        lambda: update_of(optax.MultiSteps(WHOLE, 2).gradient_transformation()),
        ValueError,
        "use mtl.accumulate in place of optax.MultiSteps",
        "accumulate",
    ),
    "flatten": Refusal(
        lambda: update_of(optax.flatten(WHOLE)),
        ValueError,
        "put optax.flatten around what follows the aggregation",
        "flatten behind",
    ),
    "aggregation twice": Refusal(
        lambda: update_of(optax.chain(tasks(), WHOLE)),
        ValueError,
        "put the aggregation first in optax.chain",
        "partition",
    ),
    "differentially_private_aggregate": Refusal(
        lambda: update_of(optax.chain(contrib.differentially_private_aggregate(1.0, 0.1, 0), WHOLE)),
        ValueError,
        "put the aggregation first in optax.chain",
        "add_noise of tasks",
    ),
    "apply_if_finite": Refusal(
        lambda: update_of(optax.apply_if_finite(WHOLE, 3)), **CANNOT_TELL, instead="nonfinite='skip'"
    ),
    "conditionally_mask": Refusal(
        lambda: update_of(optax.conditionally_mask(WHOLE, ALWAYS)), **CANNOT_TELL, instead="conditionally_mask behind"
    ),
    "conditionally_transform": Refusal(
        lambda: update_of(optax.conditionally_transform(WHOLE, ALWAYS)),
        **CANNOT_TELL,
        instead="conditionally_transform behind",
    ),
    "mechanize": Refusal(
        lambda: update_of(contrib.mechanize(WHOLE)), TypeError, "contracting dimensions", "mechanize behind"
    ),
    "lbfgs with the stacked gradient": Refusal(
        lambda: update_of(behind(LBFGS), value=value_fn(PARAMS), grad=TASK_GRADS, value_fn=value_fn),
        ValueError,
        "expected grad like the parameters beside value and value_fn",
        "lbfgs",
    ),
    "adaptive_grad_clip of tasks": Refusal(
        lambda: update_of(optax.chain(optax.adaptive_grad_clip(0.1), WHOLE)), ValueError, "Shape", "clip_task_norms"
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_and_another_way_works(name):
    call, error, sentence, instead = REFUSED[name]
    with pytest.raises(error, match=sentence):
        jax.eval_shape(call)
    assert instead in SAME | WORKS


def multi_steps_from_stacked_params():
    """`init` is handed the gradients to get accumulators of their shapes, and Adam gets moments of that shape too."""
    tx = optax.MultiSteps(behind(optax.adam(1.0)), 1)
    return tx.update(TASK_GRADS, tx.init(TASK_GRADS), PARAMS)[0]


SILENT = {  # leaves of the update keep the task axis, and no code of ours sees it
    "MultiSteps.init(task_grads)": (multi_steps_from_stacked_params, ("w", "b"), "accumulate"),
    "masked": (lambda: update_of(optax.chain(optax.masked(tasks(), ONLY_W), STEP)), ("b",), "partition"),
    "partition with set_to_zero": (
        lambda: update_of(
            optax.partition({"shared": tasks(), "heads": optax.set_to_zero()}, {"w": "shared", "b": "heads"})
        ),
        ("b",),
        "partition, heads frozen",
    ),
    "selective_transform": (
        lambda: update_of(transforms.selective_transform(WHOLE, freeze_mask=ONLY_B)),
        ("b",),
        "freeze behind",
    ),
    "sam, adversary without aggregation": (
        lambda: update_of(contrib.sam(WHOLE, optax.chain(contrib.normalize(), STEP))),
        ("w", "b"),
        "sam",
    ),
}


@pytest.mark.parametrize("name", SILENT)
def test_leaves_that_an_aggregation_never_sees_keep_their_task_axis(name):
    call, stacked, instead = SILENT[name]
    expected = {key: shapes_of(TASK_GRADS if key in stacked else PARAMS)[key] for key in PARAMS}
    assert shapes_of(jax.eval_shape(call)) == expected
    assert instead in SAME | WORKS


def test_the_policy_and_a_wrapper_behind_it_both_reject_a_step_that_is_not_finite():
    broken = TASK_GRADS | {"b": TASK_GRADS["b"].at[1].set(jnp.nan)}
    for tx in (behind(optax.apply_if_finite(STEP, 3)), optax.chain(tasks(nonfinite="skip"), STEP)):
        assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(update_of(tx, broken)))
    assert np.isnan(update_of(WHOLE, broken)["b"])


def test_a_preconditioner_before_the_aggregation_changes_its_state_and_scan_refuses_it():
    tx = optax.chain(optax.scale_by_adam(), tasks())
    state = tx.init(PARAMS)
    _, after = tx.update(TASK_GRADS, state, PARAMS)
    assert (state[0].mu["w"].shape, after[0].mu["w"].shape) == ((4, 5), (3, 4, 5))
    with pytest.raises(TypeError, match="carry"):
        jax.lax.scan(lambda state, _: (tx.update(TASK_GRADS, state, PARAMS)[1], None), state, length=2)


CENTRES = jnp.array([[1.0, 0.0], [-1.0, 2.0]])
CURVATURES = jnp.array([[1.0, 30.0], [20.0, 1.0]])


def bowls(params):
    return jnp.sum(CURVATURES * (params - CENTRES) ** 2, axis=1)


def test_lbfgs_follows_the_function_whose_gradient_the_direction_is():
    """With the weights of every step each step lowers the weighted loss; held still they give plain L-BFGS."""
    lbfgs, held = optax.lbfgs(linesearch=optax.scale_by_zoom_linesearch(8)), jnp.array([0.3, 0.7])

    def step(aggregation, carry):
        params, memory, state = carry
        losses, task_grads = mtl.task_value_and_grad(bowls)(params)
        direction, memory = aggregation.update(task_grads, memory, params)
        weighted = lambda params: memory.weights @ bowls(params)
        given = {"value": memory.weights @ losses, "grad": direction, "value_fn": weighted}
        updates, state = lbfgs.update(direction, state, params, **given)
        moved = optax.apply_updates(params, updates)
        return (moved, memory, state), weighted(moved) - weighted(params)

    def plain(carry, _):
        params, state = carry
        value, grad = jax.value_and_grad(lambda params: held @ bowls(params))(params)
        given = {"value": value, "grad": grad, "value_fn": lambda params: held @ bowls(params)}
        updates, state = lbfgs.update(grad, state, params, **given)
        return (optax.apply_updates(params, updates), state), None

    start, ends = jnp.array([2.0, 3.0]), {}
    for name, aggregation in {"mgda": mtl.mgda(2), "constant": mtl.constant(2, weights=held)}.items():
        carry = (start, aggregation.init(start), lbfgs.init(start))
        (ends[name], *_), change = jax.jit(
            lambda c, a=aggregation: jax.lax.scan(lambda c, _: step(a, c), c, length=15)
        )(carry)
        assert np.all(change <= 1e-5)
    (expected, _), _ = jax.jit(lambda c: jax.lax.scan(plain, c, length=15))((start, lbfgs.init(start)))
    np.testing.assert_allclose(ends["constant"], expected, rtol=1e-3, atol=1e-4)
    gram = mtl.jacobians.stacked.gram(mtl.task_value_and_grad(bowls)(ends["mgda"])[1])
    assert mtl.diagnostics.stationarity(gram) < 1e-2
