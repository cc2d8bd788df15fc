"""A user's program that calls everything there is; a type checker must have nothing to say of it.

It is read by the type checker, see `tests/test_types.py`, and never run.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mtlgrad_jax as mtl
from mtlgrad_jax.methods.famo import FamoState

Params = dict[str, jax.Array]
schedule = optax.linear_schedule(0.5, 0.1, 100)
own_preference, noted_preference = jnp.array([0.7, 0.3]), np.array([0.7, 0.3])
key = jax.random.key(0)


# Every method, by its factory, with its options.

optimizers: list[optax.GradientTransformationExtraArgs] = [
    mtl.aligned_mtl(2, preference=noted_preference, scale="median"),
    mtl.aux_projection(num_tasks=2, strength=0.5, nonfinite="skip"),
    mtl.bloop(num_tasks=2, strength=jnp.float32(0.5), ema=0.01),
    mtl.cagrad(num_tasks=2, c=0.4, rescale="1+c^2"),
    mtl.conflict_free(num_tasks=2),
    mtl.constant(num_tasks=2, weights=own_preference),
    mtl.constant(weights=noted_preference),
    mtl.constant(weights=(1, 2)),
    mtl.cosine_gate(num_tasks=2, gate="unweighted", strength=2.0),
    mtl.cr_mogm(num_tasks=2, weighting=mtl.weightings.upgrad, alpha=0.5),
    mtl.cr_mogm(num_tasks=2, weighting=mtl.weightings.pcd(tau=0.1)),
    mtl.dcgd(num_tasks=2, variant="projection"),
    mtl.dualproj(num_tasks=2, preference=own_preference),
    mtl.dwa(num_tasks=2, temperature=1.0, steps_per_period=100),
    mtl.dynamic_barrier(num_tasks=2, strength=1),
    mtl.excess_mtl(num_tasks=2, learning_rate=0.1),
    mtl.fairgrad(num_tasks=2, alpha=2.0),
    mtl.famo(num_tasks=2, optimizer=optax.sgd(0.1)),
    mtl.geometric(num_tasks=2),
    mtl.graddrop(num_tasks=2, leak=0.1, key=key),
    mtl.gradnorm(num_tasks=2, alpha=0.12, optimizer=optax.adam(0.1)),
    mtl.gradvac(num_tasks=2, beta=0.1, key=1),
    mtl.guided_masking(num_tasks=2, clean_weight=0.5),
    mtl.imtl_g(num_tasks=2),
    mtl.imtl_l(num_tasks=2, optimizer=optax.adam(0.1)),
    mtl.inverse_norm(num_tasks=2),
    mtl.krum(num_tasks=5, num_byzantine=1, num_selected=2),
    mtl.loss_balanced(num_tasks=2, beta=schedule),
    mtl.mean(num_tasks=2, axis_name=("data", "model")),
    mtl.mgda(num_tasks=2, normalization="loss+", axis_name="model", nonfinite="drop_task"),
    mtl.mgda(solver=partial(mtl.solvers.frank_wolfe, step="2/(k+2)", max_steps=100)),
    mtl.mgda(solver=mtl.solvers.softmax_descent),
    mtl.moco(num_tasks=2, beta=schedule, gamma=0.1, rho=0.0),
    mtl.modo(num_tasks=2, gamma=0.1, rho=0.0),
    mtl.momentum_conflict_free(num_tasks=2, b1=0.9, b2=0.99, eps=1e-6),
    mtl.nash_mtl(num_tasks=2, max_norm=None),
    mtl.pcd(num_tasks=2, tau=np.array([0.1]), beta=0.99, eps=1e-8),
    mtl.pcgrad(num_tasks=2, key=key),
    mtl.primary_aux(num_tasks=3, num_primary=2, solver=mtl.solvers.min_norm),
    mtl.random_weights(num_tasks=2, key=7),
    mtl.sdmgrad(num_tasks=2, pull=0.3, num_steps=10, learning_rate=1.0, momentum=0.0, preference=noted_preference),
    mtl.si(num_tasks=2),
    mtl.stch(num_tasks=2, mu=0.1, preference=noted_preference, ideal=own_preference),
    mtl.sum(2),
    mtl.trimmed_mean(num_tasks=3, trim=1),
    mtl.uncertainty(num_tasks=2, optimizer=optax.sgd(0.1)),
    mtl.upgrad(num_tasks=2, preference=own_preference),
]


# The same by their weights, for `aggregate` and `descent_direction`.

optimizers += [
    mtl.aggregate(mtl.weightings.aligned_mtl),
    mtl.aggregate(mtl.weightings.aux_projection),
    mtl.aggregate(mtl.weightings.cagrad),
    mtl.aggregate(mtl.weightings.conflict_free),
    mtl.aggregate(partial(mtl.weightings.constant, weights=own_preference)),
    mtl.aggregate(mtl.weightings.cosine_gate),
    mtl.aggregate(mtl.weightings.dcgd),
    mtl.aggregate(mtl.weightings.dualproj),
    mtl.aggregate(mtl.weightings.dwa(temperature=1.0), num_tasks=2),
    mtl.aggregate(mtl.weightings.dynamic_barrier),
    mtl.aggregate(mtl.weightings.fairgrad),
    mtl.aggregate(mtl.weightings.famo(), num_tasks=2),
    mtl.aggregate(mtl.weightings.geometric),
    mtl.aggregate(mtl.weightings.gradnorm(), num_tasks=2),
    mtl.aggregate(mtl.weightings.gradvac(key=key), num_tasks=2),
    mtl.aggregate(mtl.weightings.guided_masking),
    mtl.aggregate(mtl.weightings.imtl_g),
    mtl.aggregate(mtl.weightings.imtl_l(), num_tasks=2),
    mtl.aggregate(mtl.weightings.inverse_norm),
    mtl.aggregate(mtl.weightings.krum),
    mtl.aggregate(mtl.weightings.loss_balanced),
    mtl.aggregate(mtl.weightings.mean),
    mtl.aggregate(mtl.weightings.mgda, num_tasks=2, axis_name="model", nonfinite="propagate"),
    mtl.aggregate(mtl.weightings.modo(), num_tasks=2),
    mtl.aggregate(mtl.weightings.nash_mtl),
    mtl.aggregate(mtl.weightings.pcd(), num_tasks=2),
    mtl.aggregate(mtl.weightings.keyed(mtl.weightings.pcgrad, key)),
    mtl.aggregate(mtl.weightings.pcgrad),
    mtl.aggregate(mtl.weightings.primary_aux),
    mtl.aggregate(mtl.weightings.keyed(mtl.weightings.random_weights, 0)),
    mtl.aggregate(mtl.weightings.random_weights),
    mtl.aggregate(mtl.weightings.sdmgrad(pull=0.1), num_tasks=2),
    mtl.aggregate(mtl.weightings.si),
    mtl.aggregate(mtl.weightings.stch),
    mtl.aggregate(mtl.weightings.sum),
    mtl.aggregate(mtl.weightings.uncertainty(), num_tasks=2),
    mtl.aggregate(mtl.weightings.upgrad),
    mtl.aggregate(mtl.weightings.every_k(mtl.weightings.nash_mtl, 10), num_tasks=2),
    mtl.aggregate(mtl.weightings.smoothed(mtl.weightings.mgda, alpha=0.5), num_tasks=2),
    mtl.aggregate(mtl.weightings.normalized(mtl.weightings.mgda)),
    mtl.aggregate(mtl.weightings.normalized(mtl.weightings.famo()), num_tasks=2),
    mtl.aggregate(mtl.methods.moco.rows(beta=0.1), num_tasks=2),
]


# A method of the user's own, of every kind.


def shortest(gram: jax.Array, *, temperature: float = 1.0) -> jax.Array:
    return jax.nn.softmax(-jnp.diagonal(gram) / temperature)


def remember(gram: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
    return state, 0.9 * state + 0.1 * jnp.diagonal(gram)


def follow_first(task_grads: Params, state: tuple[()]) -> tuple[Params, None, tuple[()]]:
    return jax.tree.map(lambda leaf: leaf[0], task_grads), None, state


optimizers += [
    mtl.aggregate(shortest),
    mtl.aggregate(mtl.typing.StatefulWeighting(jnp.ones, remember), num_tasks=2),
    mtl.aggregate(mtl.typing.RowMethod(lambda num_tasks, params: (), follow_first, needs_num_tasks=False)),
    mtl.aggregate(mtl.typing.Method(shortest, certificate=mtl.solvers.certificates.min_norm_gap, num_primary=1)),
]


# A training step.


def losses_fn(params: Params, batch: jax.Array) -> dict[str, jax.Array]:
    return {"left": jnp.sum((params["w"] - batch) ** 2), "right": jnp.sum((params["w"] + batch) ** 2)}


params: Params = {"w": jnp.zeros(3)}
batch = jnp.ones(3)
chain = optax.chain(mtl.clip_task_norms(1.0), mtl.mgda(num_tasks=2), mtl.relu_l2_project(scope="leaf"), optax.sgd(0.1))
optimizer = mtl.accumulate(chain, every_k=4, num_tasks=2, missing="zero")
opt_state = optimizer.init(params)
losses, task_grads = mtl.task_value_and_grad(losses_fn, chunk_size=1)(params, batch)
updates, opt_state = optimizer.update(task_grads, opt_state, params, losses=losses, counts=jnp.array([4, 3]))
stepped = optax.apply_updates(params, updates)
decoupled: optax.GradientTransformation = optax.chain(mtl.mgda(), mtl.adam_relu_l2(schedule, scope="tree"))

separate_losses, separate_grads = mtl.separate_value_and_grad([lambda params: params["w"][0]])(params, [()])
values, update, info = mtl.descent_direction(losses_fn, params, mtl.weightings.mgda, batch, method="matrix_free")
values, update, info = mtl.descent_direction(
    losses_fn,
    params,
    mtl.weightings.famo(),
    batch,
    memory=info.memory,
    nonfinite="drop_task",
    present=jnp.array([1, 0]),
)
mtl.descent_direction(losses_fn, params, shortest, batch, temperature=0.5)
values, update, info = mtl.descent_direction(losses_fn, params, mtl.weightings.mgda, batch, method="auto")
values, update, info = mtl.descent_direction(losses_fn, params, mtl.weightings.mgda, batch, method="structured")
mtl.descent_direction(
    losses_fn, params, mtl.weightings.mgda, batch, method=partial(mtl.jacobians.matrix_free.linearize, chunk_size=2)
)
gap: jax.Array | None = info.gap
remembered: FamoState = info.memory


# A step that hurts nobody, whatever made it.

guarded: optax.GradientTransformationExtraArgs = mtl.guard(
    optax.chain(mtl.mgda(), optax.adamw(schedule)),
    num_tasks=2,
    metric="optimizer",
    protected=[0, 1],
    progress=0.1,
    slack=(0.0, 0.1),
    axis_name="data",
)
split: optax.GradientTransformationExtraArgs = mtl.trunk_and_heads(
    mtl.mgda(num_tasks=2), mtl.shared_leaves(lambda params: (params["w"].sum(), params["b"].sum()), params)
)
mtl.trunk_and_heads(mtl.mgda(), lambda params: {"w": True, "b": False}, nonfinite="skip")
mtl.guard(optax.chain(mtl.mean(), optax.sgd(0.1)), metric=lambda state: params, protected=np.array([True, False]))
mtl.accumulate(guarded, every_k=2, num_tasks=2)
logged: dict[str, float] = mtl.diagnostics.scalars(guarded.init(params), names=("left", "right"))
step, guard_state = guarded.update(task_grads, guarded.init(params), params, present=jnp.array([True, False]))
step_record: mtl.typing.StepRecord = mtl.diagnostics.read_step(guard_state)

layered_losses, layered = mtl.jacobians.structured.linearize(losses_fn, params, batch, chunk_size=1, axis_name=None)
direction = layered.combine(mtl.weightings.upgrad(layered.gram()), keep=jnp.array([True, False]))
step, step_record = mtl.guard_step(layered, direction, guard_state, metric="euclidean", protected=[True, False])
chosen: mtl.jacobians.automatic.Choice = mtl.jacobians.automatic.choose(losses_fn, params, batch)
held_losses, held = mtl.jacobians.automatic.linearize(losses_fn, params, batch)
step, step_record = mtl.guard_step(held, direction, slack=0.1, present=jnp.array([True, False]))
multipliers: jax.Array = step_record.multipliers
moves: list[jax.Array] = [
    layered.push(direction),
    layered.row_lengths(),
    mtl.diagnostics.step_cosines(layered, step),
    mtl.diagnostics.hurt_by_step(task_grads, step, axis_name=None),
]
print(chosen.method, layered.report(), layered.num_tasks)


# Solvers, Jacobians and numbers that tell what a step did.

gram: jax.Array = mtl.jacobians.stacked.gram(task_grads, axis_name=None)
solution: mtl.typing.Solution = mtl.solvers.min_norm(gram, 1)
solutions = [
    mtl.solvers.frank_wolfe(gram, step="line_search", max_steps=10, tolerance=1e-6),
    mtl.solvers.greedy_coordinate(gram, num_simplex=1, rule="gauss_southwell"),
    mtl.solvers.softmax_descent(gram, optimizer=optax.adam(0.1)),
    mtl.solvers.smoothed_minimum(gram, sharpness=10.0),
    mtl.solvers.nnls(gram, gram[0]),
    mtl.solvers.alpha_fair(gram, alpha=2.0),
    mtl.solvers.max_min_in_ball(gram, own_preference, 0.5),
]
evidence: list[jax.Array] = [
    mtl.solvers.certificates.min_norm_gap(gram, solution.x),
    mtl.solvers.certificates.conflict_gap(gram, solution.x),
    mtl.solvers.fairness_gap(gram, solution.x),
    mtl.methods.cagrad.cagrad_gap(gram, solution.x, c=0.4),
]
value, jac = mtl.jacobians.stacked.linearize(losses_fn, params, batch)
combined = jac.combine(mtl.weightings.mgda(jac.gram(), solver=mtl.solvers.min_norm))
ready: mtl.step.Taken = mtl.step.take(mtl.step.ready(mtl.weightings.mgda), jac, ())

numbers: list[jax.Array] = [
    mtl.diagnostics.cosines(gram),
    mtl.diagnostics.conflicts(gram),
    mtl.diagnostics.alignment(gram, solution.x),
    mtl.diagnostics.stationarity(gram),
    mtl.diagnostics.summarize(gram, solution.x).worst_cosine,
    mtl.diagnostics.read(opt_state).weights,
]
history = mtl.diagnostics.History()
history.append(opt_state, losses=losses)
noted: np.ndarray = history["weights"]
axes = mtl.plots.weights(noted, tasks=["left", "right"], steps=range(1, 2), window=10)
mtl.plots.conflicts(history["gram"], noted, ax=axes)
mtl.plots.weight_triangle(gram, {"mean": noted})
claims: mtl.typing.Claims = mtl.methods.claims()["mgda"]
