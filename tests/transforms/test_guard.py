"""The promise of the step that is taken: SciPy's answer to the same program, at any scale, behind any optimiser."""

import functools
import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from cases import BENIGN, DEGENERATE, draw, widen
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from optax import contrib
from split_parameters import NUM_TASKS, PARAMS, SPECS, TASK_GRADS, collectives, put, stacked_specs

import mtlgrad_jax as mtl
from mtlgrad_jax.transforms._rows_over_mesh import RowsOverMesh

METRICS = ("euclidean", "optimizer")
EPS = float(jnp.finfo(jnp.float32).eps)


def returning(step):
    """An optimiser that returns a given increment, with a second moment in its state."""
    return optax.GradientTransformation(
        lambda params: optax.EmptyState(), lambda updates, state, params=None: (step, state)
    )


def with_second_moment(step, nu):
    state = optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=nu, nu=nu)
    return optax.GradientTransformation(lambda params: state, lambda updates, state, params=None: (step, state))


def guarded(task_grads, step, **options):
    """Return Δ′ and the record for Δ = `step`."""
    fixed = {name: value for name, value in options.items() if not hasattr(value, "dtype")}
    given = {name: value for name, value in options.items() if hasattr(value, "dtype")}
    return _guarded(tuple(sorted(fixed.items())), task_grads, step, given)


@partial(jax.jit, static_argnums=0)
def _guarded(fixed, task_grads, step, given):
    negative = jax.tree.map(jnp.negative, step)
    tx = mtl.guard(returning(negative), jax.tree.leaves(task_grads)[0].shape[0], **dict(fixed), **given)
    updates, state = tx.update(task_grads, tx.init(step))
    return jax.tree.map(jnp.negative, updates), state.step


def oracle(task_grads, step, scales, bounds=0.0):
    """Return the projection in float64 by SciPy's non-negative least squares on J itself."""
    rows, step, scales = (np.asarray(a, np.float64) for a in (task_grads, step, scales))
    root = np.sqrt(scales)
    lengths = np.linalg.norm(rows * root, axis=1)
    unit = np.where(lengths[:, None] > 0, rows * root, 0) / np.where(lengths > 0, lengths, 1)[:, None]
    x, _ = scipy.optimize.nnls(unit.T, -step / root, maxiter=100 * len(rows))
    return step + root * (unit.T @ x)


def cosines(task_grads, step):
    rows, step = np.asarray(task_grads, np.float64), np.asarray(step, np.float64)
    length = np.linalg.norm(rows, axis=1) * np.linalg.norm(step)
    return np.where(length > 0, rows @ step / np.where(length > 0, length, 1), 0)


def against(task_grads, seed=1):
    """Draw a step that several tasks object to."""
    rng = np.random.default_rng(seed)
    step = rng.standard_normal(task_grads.shape[1])
    lengths = np.linalg.norm(task_grads.astype(np.float64), axis=1)
    unit = task_grads / np.where(lengths > 0, lengths, 1)[:, None]
    return (step / np.linalg.norm(step) - 0.5 * unit[: 1 + len(unit) // 2].mean(0)).astype(np.float32)


@functools.cache
def behind_a_second_moment(metric):
    @jax.jit
    def run(task_grads, step, nu):
        tx = mtl.guard(with_second_moment(-step, nu), len(task_grads), metric=metric)
        return tx.update(task_grads, tx.init(step))

    return run


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("num_tasks", [1, 2, 8, 64])
@pytest.mark.parametrize("name", ["opposed", "spread_4", "minute"])
def test_is_the_projection_that_scipy_finds_in_float64(name, num_tasks, metric):
    task_grads = draw(name, num_tasks)
    step = next(s for s in map(partial(against, task_grads), range(99)) if np.min(cosines(task_grads, s)) < -0.01)
    nu = np.random.default_rng(2).uniform(0.01, 1, step.shape).astype(np.float32)
    updates, state = behind_a_second_moment(metric)(task_grads, step, nu)
    root = np.sqrt(nu.astype(np.float64))
    largest = 2.0 ** np.floor(np.log2(root.max()))
    scales = np.ones_like(root) if metric == "euclidean" else 1 / (root / largest + 2.0**-10)
    wanted = oracle(task_grads, step, scales)
    assert np.linalg.norm(-updates - wanted) < 1e-5 * np.linalg.norm(step)
    assert state.step.certificate < 1e-5 and np.min(cosines(task_grads, -updates)) > -1e-5


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e25])
@pytest.mark.parametrize("length", [1e-25, 1e-6, 1.0, 1e18])
def test_scales_of_gradients_and_step_do_not_matter(scale, length):
    task_grads = draw("gaussian", 5)
    step = against(task_grads)
    wanted, _ = guarded(task_grads, jnp.asarray(step))
    taken, record = guarded(task_grads * np.float32(scale), jnp.asarray(step * np.float32(length)))
    np.testing.assert_allclose(np.asarray(taken, np.float64) / length, wanted, rtol=1e-4, atol=1e-6)
    assert record.certificate < 1e-5
    assert np.min(record.cosines_before) < -1e-2


@pytest.mark.parametrize("name", [*BENIGN, *DEGENERATE])
@pytest.mark.parametrize("num_tasks", [1, 2, 5])
def test_no_step_hurts_on_any_jacobian(name, num_tasks):
    narrow = draw(name, num_tasks)
    task_grads = widen(narrow)  # one program for the Jacobians of all widths
    for seed in range(3):
        step = widen(against(narrow, seed)[None])[0]
        taken, record = guarded(task_grads, jnp.asarray(step))
        assert np.all(np.isfinite(taken))
        shortest = np.linalg.norm(task_grads.astype(np.float64), axis=1) > 1e-18 * np.max(np.abs(task_grads))
        assert np.min(cosines(task_grads, taken)[shortest], initial=0) > -1e-5
        assert record.certificate < 1e-5
        assert np.linalg.norm(taken) <= np.linalg.norm(step) * (1 + 1e-5)


@pytest.mark.parametrize("name", ["gaussian", "opposed", "near_opposed", "spread_4"])
def test_the_record_says_what_float64_says_of_the_step(name):
    """Behind one projection it is computed from G, not read from J, unless little of the step is left."""
    task_grads = draw(name, 5)
    for seed in range(3):
        taken, record = guarded(task_grads, jnp.asarray(against(task_grads, seed)))
        np.testing.assert_allclose(record.cosines_after, cosines(task_grads, taken), atol=2e-6)


@pytest.mark.standard_promotion
def test_deterministic_quadratics_never_go_uphill_near_their_front():
    """Float32 loses the cone where gradients nearly oppose each other; then the step is refined, or stands still."""
    for seed, (num_tasks, num_params) in itertools.product(range(2), [(2, 2), (3, 5)]):
        rng = np.random.default_rng(seed)
        roots = jnp.asarray(rng.standard_normal((num_tasks, num_params, num_params)), jnp.float32)
        centres = jnp.asarray(rng.standard_normal((num_tasks, num_params)), jnp.float32)
        losses_fn = lambda x: jnp.sum(jnp.einsum("tij,tj->ti", roots, x[None] - centres) ** 2, axis=1)  # noqa: B023
        start = jnp.asarray(rng.standard_normal(num_params), jnp.float32)
        chain = optax.chain(mtl.mgda(), optax.adam(0.05))

        def run(tx, losses_fn=losses_fn, start=start):
            def step(carry, _):
                x, state = carry
                task_grads = jax.jacrev(losses_fn)(x)
                updates, state = tx.update(task_grads, state, x)
                return (x + updates, state), (task_grads, updates, losses_fn(x))

            return jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), length=300)[1])()

        def worst(run):
            return np.array([np.min(cosines(rows, -step)) for rows, step in zip(run[0], run[1], strict=True)])

        plain, ours = run(chain), run(mtl.guard(chain))
        assert np.sum(worst(plain) < -1e-3) > 30
        assert np.sum(worst(ours) < -1e-5) == 0
        assert np.sum(ours[2][-1]) < np.sum(ours[2][0])


@pytest.mark.standard_promotion
@pytest.mark.parametrize("metric", METRICS)
def test_where_nothing_conflicts_the_update_is_the_same_to_the_last_bit(metric):
    chain = optax.chain(mtl.mgda(), optax.adamw(1e-2))
    tx = mtl.guard(chain, 3, metric=metric)
    task_grads = jnp.abs(jnp.asarray(draw("gaussian", 3)))
    params = jnp.zeros(task_grads.shape[1])
    plain_state, state = chain.init(params), tx.init(params)
    for _ in range(3):
        plain, plain_state = jax.jit(chain.update)(task_grads, plain_state, params)
        ours, state = jax.jit(tx.update)(task_grads, state, params)
        chex.assert_trees_all_equal(ours, plain)
        chex.assert_trees_all_equal(state.inner, plain_state)
    assert np.all(state.step.multipliers == 0) and state.step.certificate == 0


def test_protected_rows_only():
    task_grads = draw("gaussian", 4)
    step = against(task_grads)
    for protected in ((0, 2), (0, -2), (True, False, True, False), jnp.array([True, False, True, False])):
        taken, record = guarded(task_grads, jnp.asarray(step), protected=protected)
        wanted = oracle(task_grads[[0, 2]], step, np.ones_like(step))
        np.testing.assert_allclose(taken, wanted, atol=1e-6)
        assert np.all(record.multipliers[jnp.array([1, 3])] == 0)
    everything, _ = guarded(task_grads, jnp.asarray(step))
    assert not np.allclose(everything, wanted, atol=1e-3)
    nothing, _ = guarded(task_grads, jnp.asarray(step), protected=())
    np.testing.assert_array_equal(nothing, step)


def test_tasks_that_are_not_present_protect_nothing_and_the_optimizer_hears_of_it():
    heard = []

    def update(updates, state, params=None, **extra_args):
        heard.append(sorted(extra_args))
        return -step, state

    task_grads, step = draw("gaussian", 4), jnp.asarray(against(draw("gaussian", 4)))
    tx = mtl.guard(optax.GradientTransformationExtraArgs(lambda params: (), update), 4)
    call = jax.jit(lambda present: tx.update(task_grads, tx.init(step), present=present, losses=jnp.ones(4)))
    updates, _ = call(jnp.array([True, False, False, True]))
    np.testing.assert_allclose(-updates, oracle(task_grads[[0, 3]], step, np.ones(step.shape)), atol=1e-6)
    tx.update(task_grads, tx.init(step), losses=jnp.ones(4))
    assert heard == [["losses", "present"], ["losses"]]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_slack_lets_a_loss_rise_by_so_much(scale):
    task_grads = draw("gaussian", 3)
    step = against(task_grads)
    slack = (0.0, 0.05, 0.0)
    taken, record = guarded(task_grads * np.float32(scale), jnp.asarray(step), slack=slack)
    allowed = -np.array(slack) * np.linalg.norm(step) / np.linalg.norm(taken)
    actual = cosines(task_grads, taken)
    assert np.all(actual > allowed - 1e-5)
    assert actual[1] == pytest.approx(allowed[1], abs=1e-5) and record.certificate < 1e-6


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_progress_is_a_share_of_what_all_tasks_can_have_together(scale):
    task_grads = draw("opposed", 4)
    step = against(task_grads)
    unit = task_grads / np.linalg.norm(task_grads, axis=1, keepdims=True)
    weights = scipy.optimize.nnls(np.vstack([unit.T, 1e4 * np.ones(4)]), np.append(np.zeros(unit.shape[1]), 1e4))[0]
    best = np.linalg.norm(weights @ unit)
    taken, record = guarded(task_grads * np.float32(scale), jnp.asarray(step), progress=0.5)
    actual = cosines(task_grads, taken) * np.linalg.norm(taken) / np.linalg.norm(step)
    assert np.min(actual) == pytest.approx(0.5 * best, rel=1e-3) and record.certificate < 1e-5
    stuck = draw("exactly_opposed", 4)
    taken, record = guarded(stuck, jnp.asarray(against(stuck)), progress=0.5)
    assert np.all(np.isfinite(taken)) and record.certificate < 1e-5


def test_a_task_that_is_not_finite_protects_nothing_and_a_step_that_is_not_passes():
    task_grads = draw("gaussian", 4)
    step = against(task_grads)
    broken = task_grads.copy()
    broken[1, 3], broken[2, 0] = np.nan, np.inf
    taken, record = guarded(broken, jnp.asarray(step))
    np.testing.assert_allclose(taken, oracle(task_grads[[0, 3]], step, np.ones_like(step)), atol=1e-6)
    assert np.all(record.cosines_after[jnp.array([1, 2])] == 0) and record.certificate < 1e-5
    step[0] = np.nan
    taken, record = guarded(task_grads, jnp.asarray(step))
    np.testing.assert_array_equal(taken, step)
    assert record.certificate == np.inf
    nothing, record = guarded(np.full_like(task_grads, np.nan), jnp.asarray(against(draw("gaussian", 4))))
    np.testing.assert_array_equal(nothing, against(draw("gaussian", 4)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_the_promise_as_far_as_its_rounding_goes(dtype):
    task_grads = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3000)), dtype)
    step = jnp.asarray(against(np.asarray(task_grads, np.float32)), dtype)
    taken, record = guarded(task_grads, step)
    assert taken.dtype == dtype
    actual = cosines(task_grads, taken)
    assert np.min(cosines(task_grads, step)) < -0.05
    np.testing.assert_allclose(record.cosines_after, actual, atol=2e-6)
    assert np.min(actual) > -3e-5, "the first projection alone leaves some 1e-4"


def test_complex_leaves_and_integers():
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape), jnp.complex64)
    task_grads = {"z": normal(3, 8), "n": jnp.zeros((3, 2), jnp.int32)}
    step = {"z": -jnp.sum(task_grads["z"], axis=0) + normal(8), "n": jnp.zeros(2, jnp.int32)}
    taken, _ = guarded(task_grads, step)
    both = lambda z: np.concatenate([np.real(z), np.imag(z)], axis=-1)
    wanted = oracle(both(task_grads["z"]), both(step["z"]), np.ones(16))
    np.testing.assert_allclose(both(taken["z"]), wanted, atol=1e-5)
    assert taken["n"].dtype == jnp.int32


@pytest.mark.standard_promotion
def test_the_projection_without_a_coefficient_is_a_guard_of_one_row():
    """`relu_l2_project` behind Adam protects ½‖θ‖², whose gradient is θ."""
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.standard_normal((3, 4)), jnp.float32), "b": jnp.ones(4)}
    theta = lambda params: jax.tree.map(lambda leaf: leaf[None], params)
    adam, ours = optax.adam(0.1), mtl.adam_relu_l2(0.1)
    state, our_state, changed = adam.init(params), ours.init(params), 0
    for _ in range(5):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), jnp.float32) - p, params)
        updates, state = adam.update(grads, state, params)
        updates, record = mtl.guard_step(mtl.jacobians.stacked.Stacked(theta(params)), updates)
        expected, our_state = ours.update(grads, our_state, params)
        chex.assert_trees_all_close(updates, expected, rtol=1e-5, atol=1e-7)
        changed += record.multipliers[0] > 0
        params = optax.apply_updates(params, updates)
    assert changed > 1


LOSSES = lambda params: jnp.stack(
    [jnp.sum((params["w"] - 1) ** 2) + jnp.sum(params["b"]), jnp.sum((params["w"] + 2) ** 2), jnp.sum(params["b"] ** 2)]
)
START = {"w": jnp.array([0.3, -0.2]), "b": jnp.array([1.0, -0.5, 0.2])}


@pytest.mark.parametrize("method", ["stacked", "matrix_free", "matrix_free, backward"])
@pytest.mark.parametrize("metric", METRICS)
def test_without_a_stack_the_same(method, metric):
    ways = {
        "stacked": mtl.jacobians.stacked.linearize,
        "matrix_free": mtl.jacobians.matrix_free.linearize,
        "matrix_free, backward": lambda *args: mtl.jacobians.matrix_free.linearize(*args, mode="reverse"),
    }
    updates = {"w": jnp.array([0.5, -1.0]), "b": jnp.array([1.0, 0.2, 0.3])}
    nu = {"w": jnp.array([0.5, 0.01]), "b": jnp.array([0.02, 1.0, 0.1])}
    optimizer = with_second_moment(updates, nu)
    _, task_grads = mtl.task_value_and_grad(LOSSES)(START)
    tx = mtl.guard(optimizer, 3, metric=metric)
    expected, state = tx.update(task_grads, tx.init(START))

    @jax.jit
    def step(params):
        _, jac = ways[method](LOSSES, params)
        return mtl.guard_step(jac, updates, optimizer.init(params), metric=metric)

    actual, record = step(START)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(record, state.step, rtol=1e-4, atol=1e-6)
    assert record.cosines_before.min() < -0.1 and record.cosines_after.min() > -1e-6


def test_a_shared_representation_is_guarded_at_the_parameters():
    params = (jnp.array([0.5, -1.0]), jnp.array([1.0, 2.0]))
    encoder_fn = lambda encoder: encoder * jnp.array([1.0, 5.0])
    heads_fn = lambda heads, h: jnp.stack([jnp.sum((h - heads) ** 2), jnp.sum((h + 1) ** 2)])
    updates = (jnp.array([1.0, -0.2]), jnp.array([-1.0, 0.5]))
    _, jac = mtl.jacobians.shared_encoder.linearize(encoder_fn, heads_fn, params)
    actual, _ = mtl.guard_step(jac, updates)
    _, exact = mtl.jacobians.matrix_free.linearize(lambda params: heads_fn(params[1], encoder_fn(params[0])), params)
    expected, record = mtl.guard_step(exact, updates)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5)
    assert record.cosines_before.min() < -0.1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_long_rows_in_a_metric_against_float64(dtype):
    """A lone CPU multiplies them slice by slice: no copy of J in the metric."""
    rng = np.random.default_rng(5)
    rows = jnp.asarray(rng.standard_normal((3, 100_001)), dtype)
    scales = jnp.asarray(rng.uniform(0.5, 2, 100_001), jnp.float32)
    square = lambda rows, scales: RowsOverMesh(rows, jnp.ones(3, bool), None).gram_in(scales, jnp.int32(3))
    program = jax.jit(square).lower(rows, scales).compile()
    exact = np.asarray(rows, np.float64)
    np.testing.assert_allclose(program(rows, scales) * 4.0**3, exact * np.asarray(scales) @ exact.T, atol=5)
    if jax.device_count() == 1 and dtype == jnp.float32:
        assert program.memory_analysis().temp_size_in_bytes < rows.nbytes


# ---- what it wraps, and what wraps it --------------------------------------------------------------------------------


def train(tx, num_steps=40, start=START, params_of=lambda params: params):
    """Return the worst cosine of the steps of the parameters, and the last state."""

    def step(carry, _):
        params, state = carry
        _, task_grads = mtl.task_value_and_grad(LOSSES)(params_of(params))
        updates, state = tx.update(task_grads, state, params)
        moved = optax.apply_updates(params, updates)
        return (moved, state), jnp.min(mtl.diagnostics.step_cosines(task_grads, params_of(updates)))

    (_, state), worst = jax.jit(lambda: jax.lax.scan(step, (start, tx.init(start)), length=num_steps))()
    return np.asarray(worst), state


def tasks():
    return mtl.mean(3)


ADAM = lambda: optax.chain(tasks(), optax.adam(0.1))
INSIDE = {  # optimisers that guard may wrap
    "adam": ADAM,
    "clip, adamw, schedule": lambda: optax.chain(
        tasks(), optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(0.1, 40), weight_decay=0.1)
    ),
    "lion": lambda: optax.chain(tasks(), optax.lion(0.05)),
    "rmsprop": lambda: optax.chain(tasks(), optax.rmsprop(0.05, momentum=0.9)),
    "muon": lambda: optax.chain(tasks(), contrib.muon(0.05)),
    "partition": lambda: optax.partition(
        {"w": optax.chain(tasks(), optax.adam(0.1)), "b": optax.chain(mtl.sum(), optax.adam(0.05))},
        {"w": "w", "b": "b"},
    ),
    "inject_hyperparams": lambda: optax.inject_hyperparams(lambda rate: optax.chain(tasks(), optax.adam(rate)))(
        rate=0.1
    ),
    "schedule_free": lambda: contrib.schedule_free(ADAM(), 0.1),
    "clip_task_norms": lambda: optax.chain(mtl.clip_task_norms(1.0), ADAM()),
    "apply_if_finite behind": lambda: optax.chain(tasks(), optax.apply_if_finite(optax.adam(0.1), 3)),
    "flatten behind": lambda: optax.chain(tasks(), optax.flatten(optax.adam(0.1))),
    "freeze behind": lambda: optax.chain(tasks(), optax.adam(0.1), optax.transforms.freeze({"w": False, "b": True})),
    "reduce_on_plateau": lambda: optax.chain(ADAM(), contrib.reduce_on_plateau()),
}
STEP_NOT_GUARDED = {"freeze behind"}  # the correction moves what was frozen; see the test below


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", INSIDE)
def test_guard_around(name):
    extras = {"value": jnp.ones(())} if name == "reduce_on_plateau" else {}
    with_extras = lambda tx: optax.GradientTransformation(
        tx.init, lambda *args: optax.with_extra_args_support(tx).update(*args, **extras)
    )
    plain, _ = train(with_extras(INSIDE[name]()))
    ours, state = train(with_extras(mtl.guard(INSIDE[name](), 3)))
    assert np.sum(plain < -1e-3) > 3
    assert np.min(ours) > -1e-5
    assert mtl.diagnostics.read_step(state).certificate < 1e-5


@pytest.mark.standard_promotion
@pytest.mark.parametrize(
    "name", ["adam", "clip, adamw, schedule", "rmsprop", "partition", "inject_hyperparams", "schedule_free"]
)
def test_the_second_moment_is_found_in(name):
    ours, _ = train(mtl.guard(INSIDE[name](), 3, metric="optimizer"))
    assert np.min(ours) > -1e-5


OUTSIDE = {  # what guard may be wrapped in
    "accumulate": lambda: mtl.accumulate(mtl.guard(ADAM(), 3), 1, 3),
    "chain": lambda: optax.chain(mtl.guard(ADAM()), optax.identity()),
    "inject_hyperparams": lambda: optax.inject_hyperparams(mtl.guard, static_args=("optimizer", "num_tasks"))(
        optimizer=ADAM(), num_tasks=3, slack=0.0
    ),
    "named_chain": lambda: optax.named_chain(("all", mtl.guard(ADAM()))),
}


@pytest.mark.standard_promotion
@pytest.mark.parametrize("name", OUTSIDE)
def test_guard_inside(name):
    ours, _ = train(OUTSIDE[name]())
    assert np.min(ours) > -1e-5


@pytest.mark.standard_promotion
def test_accumulate_outside_guards_the_step_by_the_mean_rows():
    tx = mtl.accumulate(mtl.guard(ADAM(), 3), 2, 3)
    rows = [jnp.asarray(draw("gaussian", 3, seed), jnp.float32) for seed in range(6)]
    state = tx.init(rows[0][0])
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        zero, state = tx.update(first, state, rows[0][0])
        step, state = tx.update(second, state, rows[0][0])
        assert np.all(zero == 0)
        assert np.min(cosines((first + second) / 2, -step)) > -1e-5


@pytest.mark.standard_promotion
def test_lookahead_outside_guards_the_fast_steps():
    tx = optax.lookahead(mtl.guard(ADAM(), 3), sync_period=5, slow_step_size=0.5)
    start = optax.LookaheadParams.init_synced(START)
    ours, _ = train(tx, start=start, params_of=lambda params: params.fast)
    between = np.arange(len(ours)) % 5 != 4
    assert np.min(ours[between]) > -1e-5 and np.min(ours) < -1e-3


@pytest.mark.standard_promotion
def test_what_steps_once_for_several_updates_is_refused_and_so_is_what_changes_the_tree():
    for optimizer, instead in (
        (mtl.accumulate(ADAM(), 2, 3), r"put it outside: mtl.accumulate\(mtl.guard"),
        (optax.chain(tasks(), optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation()), "use mtl.accumulate"),
    ):
        with pytest.raises(ValueError, match=instead):
            mtl.guard(optimizer).init(START)
    _, task_grads = mtl.task_value_and_grad(LOSSES)(START)
    synced = optax.LookaheadParams.init_synced(START)
    tx = mtl.guard(optax.lookahead(ADAM(), sync_period=2, slow_step_size=0.5))
    with pytest.raises(ValueError, match=r"in a tree like the parameters \{\.fast"):
        tx.update(task_grads, tx.init(synced), synced)
    tx = mtl.guard(optax.adam(0.1))
    with pytest.raises(ValueError, match="start it with an aggregation"):
        tx.update(task_grads, tx.init(task_grads))


@pytest.mark.standard_promotion
def test_a_metric_that_is_not_there_is_missed():
    half = optax.partition({"w": ADAM(), "b": optax.chain(tasks(), optax.sgd(0.1))}, {"w": "w", "b": "b"})
    for optimizer in (INSIDE["lion"](), half, optax.chain(ADAM(), optax.scale_by_rms())):
        tx = mtl.guard(optimizer, metric="optimizer")
        with pytest.raises(ValueError, match="one second moment `nu` for every parameter"):
            train(tx, 1)
    with pytest.raises(ValueError, match="expected metric to be one of euclidean, optimizer or a function"):
        mtl.guard(ADAM(), metric="adam")
    with pytest.raises(ValueError, match=r"expected protected to hold .* of 3 tasks"):
        train(mtl.guard(ADAM(), protected=(3,)), 1)
    with pytest.raises(ValueError, match=r"expected present of shape \(3,\)"):
        mtl.guard_step(mtl.jacobians.stacked.linearize(LOSSES, START)[1], START, present=jnp.ones(2, bool))


@pytest.mark.standard_promotion
def test_a_metric_of_ones_made_by_a_function_is_the_euclidean_one_and_zeros_stay_where_they_are():
    ones = lambda state: jax.tree.map(jnp.ones_like, state[1][0].nu)
    assert np.allclose(train(mtl.guard(ADAM(), metric=ones))[0], train(mtl.guard(ADAM()))[0], atol=1e-4)
    frozen = lambda state: {"w": jnp.ones(2), "b": jnp.zeros(3)}
    inner = INSIDE["freeze behind"]()
    tx = mtl.guard(inner, metric=frozen, protected=(0, 1))
    _, task_grads = mtl.task_value_and_grad(LOSSES)(START)
    state = tx.init(START)
    for _ in range(5):
        updates, state = tx.update(task_grads, state, START)
        assert np.all(updates["b"] == 0)


# ---- JAX -------------------------------------------------------------------------------------------------------------


@pytest.mark.standard_promotion
def test_state_survives_scan_cond_vmap_and_donation(tmp_path):
    tx = mtl.guard(ADAM(), 3, metric="optimizer")

    def step(carry, _):
        params, state = carry
        _, task_grads = mtl.task_value_and_grad(LOSSES)(params)
        updates, new = tx.update(task_grads, state, params)
        new = jax.lax.cond(updates["b"][0] != 0, lambda: new, lambda: state)
        return (optax.apply_updates(params, updates), new), new.step.certificate

    run = lambda start: jax.lax.scan(step, (start, tx.init(start)), length=20)
    (params, state), certificates = jax.jit(run)(START)
    assert np.max(certificates) < 1e-5
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), START)
    (many, _), _ = jax.jit(jax.vmap(run))(both)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], many), params, rtol=1e-4, atol=1e-5)
    donated = jax.jit(lambda params, state: step((params, state), None)[0], donate_argnums=(0, 1))
    expected = step((params, state), None)[0]
    checkpoint = pytest.importorskip("orbax.checkpoint")
    with checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", (params, state))
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: (params, state)))
    chex.assert_trees_all_equal(restored, (params, state))
    chex.assert_trees_all_close(donated(params, state), expected, rtol=1e-4, atol=1e-6)


def momentum(axis_name=None):
    chain = optax.chain(mtl.mean(axis_name=axis_name), optax.sgd(1.0, momentum=0.9))
    return mtl.guard(chain, NUM_TASKS, axis_name=axis_name)


def two_steps(tx, task_grads, params):
    """The second step is against the first one's gradients, which momentum remembers."""
    _, state = tx.update(jax.tree.map(lambda leaf: -leaf - leaf[:1], task_grads), tx.init(params))
    return tx.update(task_grads, state)


needs_devices = pytest.mark.skipif(jax.device_count() < 8, reason="needs eight devices; see XLA_FLAGS in conftest.py")


@needs_devices
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_parameters_split_over_devices_need_no_gather(axis_type):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(axis_type,))
    tx = momentum()
    expected, state = two_steps(tx, TASK_GRADS, PARAMS)
    assert state.step.cosines_before.min() < -0.1
    with jax.set_mesh(mesh):
        task_grads, params = put(TASK_GRADS, mesh, stacked_specs()), put(PARAMS, mesh, SPECS)
        compiled = jax.jit(lambda *args: two_steps(tx, *args)).lower(task_grads, params).compile()
        updates, state = compiled(task_grads, params)
    text = compiled.as_text()
    assert "all-gather" not in text and "all-to-all" not in text
    assert {name: leaf.sharding.spec for name, leaf in updates.items()} == SPECS
    chex.assert_trees_all_close(jax.device_get(updates), expected, rtol=1e-4, atol=1e-4)


@needs_devices
@pytest.mark.parametrize("specs", [SPECS, {"w": P(None, "model"), "b": P()}])
def test_shard_map_with_an_axis_name(specs):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    rows = jax.tree.map(lambda spec: P(None, *spec), specs, is_leaf=lambda x: isinstance(x, P))
    tx = momentum("model")
    step = lambda task_grads, params: two_steps(tx, task_grads, params)[0]
    over = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(rows, specs), out_specs=specs))
    expected, _ = two_steps(momentum(), TASK_GRADS, PARAMS)
    chex.assert_trees_all_close(jax.device_get(over(TASK_GRADS, PARAMS)), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=r"differ over the mesh axes \['model'\]"):
        step = lambda task_grads, params: two_steps(momentum(), task_grads, params)[0]
        jax.shard_map(step, mesh=mesh, in_specs=(rows, specs), out_specs=specs)(TASK_GRADS, PARAMS)


@needs_devices
def test_one_more_vector_is_summed_over_devices():
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    rows = jax.tree.map(lambda spec: P(None, *spec), SPECS, is_leaf=lambda x: isinstance(x, P))
    chain = optax.chain(mtl.mgda(axis_name="model"), optax.sgd(1.0))
    counts = []
    for tx in (chain, mtl.guard(chain, axis_name="model")):
        step = lambda task_grads, tx=tx: tx.update(task_grads, tx.init(None))[0]
        over = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(rows,), out_specs=SPECS))
        counts.append(collectives(over.lower(TASK_GRADS).compile())["all-reduce"])
    assert counts == [1, 2]
