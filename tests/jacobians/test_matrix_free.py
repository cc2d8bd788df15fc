"""J as a linear map: corners, ranges, rules of differentiation, and what it says when it cannot."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import matrix_free, stacked

MODES = pytest.mark.parametrize("mode", matrix_free.MODES)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((8, 6)), jnp.float32)
PARAMS = {
    name: jnp.asarray(RNG.standard_normal(shape), jnp.float32)
    for name, shape in (("first", (6, 5)), ("second", (5, 4)))
}


def losses_fn(params):
    return jnp.mean((jnp.tanh(X @ params["first"]) @ params["second"] - 1) ** 2, axis=0)


def pair(function, params, **options):
    """Return the Gram matrices and scales of the matrix-free and the stacked Jacobian."""

    @jax.jit
    def grams(params):
        _, task_grads = mtl.task_value_and_grad(function)(params)
        _, jac = matrix_free.linearize(function, params, **options)
        return jac.scaled_gram(), stacked.scaled_gram(task_grads)

    return grams(params)


@functools.cache
def pair_at_scale(mode):
    return jax.jit(lambda scale: pair(lambda params: losses_fn(params) * scale, PARAMS, mode=mode))


def assert_same(ours, wanted, tolerance=1e-6):
    (gram, scale), (wanted, wanted_scale) = ours, wanted
    gram = np.ldexp(np.asarray(gram, float), 2 * (int(scale) - int(wanted_scale)))
    lengths = np.sqrt(np.diagonal(np.asarray(wanted, float)))
    assert np.all(np.abs(gram - wanted) <= tolerance * lengths[:, None] * lengths[None, :])


@MODES
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 9, None])
def test_chunk_size_changes_nothing(mode, chunk_size):
    assert_same(*pair(losses_fn, PARAMS, mode=mode, chunk_size=chunk_size))


@MODES
@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-15, 1e15, 1e18, 1e30])
def test_a_common_scale_leaves_range_for_no_product(mode, scale):
    ours, wanted = pair_at_scale(mode)(jnp.float32(scale))
    assert_same(ours, wanted)
    plain, _ = pair_at_scale(mode)(jnp.float32(1))
    assert jnp.allclose(mtl.weightings.mgda(ours[0]), mtl.weightings.mgda(plain[0]), atol=1e-5)


@MODES
def test_tasks_twelve_decades_apart_keep_their_digits(mode):
    spread = jnp.array([1e-6, 1.0, 1e6, 1e-3])
    assert_same(*pair(lambda params: losses_fn(params) * spread, PARAMS, mode=mode))


@MODES
def test_corners(mode):
    def corners(params):
        losses = losses_fn(params)
        return jnp.stack([losses[0], losses[0], -losses[0], 0.0 * losses[1]])

    assert_same(*pair(corners, PARAMS, mode=mode))
    assert_same(*pair(lambda params: losses_fn(params)[:1], PARAMS, mode=mode))
    assert_same(*pair(lambda params: 0.0 * losses_fn(params), PARAMS, mode=mode))


@MODES
def test_a_task_that_is_not_finite_spoils_its_own_row_only(mode):
    def function(params):
        return jnp.stack([losses_fn(params)[0], jnp.sum(jnp.sqrt(params["unused"])), losses_fn(params)[1]])

    params = dict(PARAMS, unused=jnp.zeros(2))
    (gram, _), (wanted, _) = pair(function, params, mode=mode)
    assert jnp.array_equal(jnp.isfinite(gram), jnp.isfinite(wanted))


@MODES
def test_any_pytree(mode):
    params = {"w": PARAMS["first"], "step": jnp.arange(3), "none": None, "scale": jnp.float32(2)}

    def function(params):
        return {"b": jnp.sum(params["w"]) * params["scale"], "a": jnp.sum(params["w"] ** 2)}

    (losses, aux), jac = matrix_free.linearize(lambda p: (function(p), "aux"), params, has_aux=True, mode=mode)
    _, task_grads = mtl.task_value_and_grad(function)(params)
    update = jac.combine(jnp.array([1.0, 3.0]))
    wanted = stacked.combine(task_grads, jnp.array([1.0, 3.0]))
    assert aux == "aux"
    assert isinstance(jac, mtl.typing.Jacobian)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype and jnp.allclose(a, b), update, wanted))
    assert jnp.allclose(losses, jnp.stack(list(function(params).values())))
    assert_same((jac.gram(), 0), (stacked.gram(task_grads), 0))


@MODES
def test_complex_parameters(mode):
    params = jax.random.normal(jax.random.key(3), (3,), jnp.complex64)

    def function(z):
        return jnp.stack([jnp.sum(jnp.abs(z)), jnp.sum((z * z).real), jnp.sum((z * z[::-1]).imag)])

    assert_same(*pair(function, params, mode=mode))


def test_half_precision_is_as_good_as_its_own_sweeps():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)

    def function(params):
        hidden = jnp.tanh(X.astype(jnp.bfloat16) @ params["first"])
        return jnp.mean((hidden @ params["second"] - 1).astype(jnp.float32) ** 2, axis=0)

    assert_same(*pair(function, half, mode="forward"), tolerance=2**-5)
    assert_same(*pair(function, half, mode="reverse"), tolerance=2**-14)


@jax.custom_vjp
def reverse_gradient(x):
    return x


reverse_gradient.defvjp(lambda x: (x, None), lambda _, cotangent: (-2.0 * cotangent,))


@jax.custom_vjp
def clip_gradient(x):
    return x


clip_gradient.defvjp(lambda x: (x, None), lambda _, cotangent: (jnp.clip(cotangent, -0.01, 0.01),))


def through(layer):
    return lambda params: losses_fn(dict(params, first=layer(params["first"])))


@MODES
def test_a_linear_custom_vjp_is_no_obstacle(mode):
    assert_same(*pair(through(reverse_gradient), PARAMS, mode=mode))


def test_a_backward_rule_that_is_not_linear_needs_reverse_mode():
    assert_same(*pair(through(clip_gradient), PARAMS, mode="reverse"))
    _, jac = matrix_free.linearize(through(clip_gradient), PARAMS)
    with pytest.raises(ValueError, match='mode="reverse"'):
        jac.gram()


def test_the_loss_function_is_run_once():
    calls = []

    def counted(params):
        jax.debug.callback(lambda: calls.append(1))
        return losses_fn(params)

    _, jac = matrix_free.linearize(counted, PARAMS)
    jac.combine(jac.gram()[0])
    jax.effects_barrier()
    assert len(calls) == 1


def test_the_linearization_leaves_one_jit_and_enters_another():
    _, jac = jax.jit(lambda params: matrix_free.linearize(losses_fn, params))(PARAMS)
    gram, update = jax.jit(lambda jac: (jac.gram(), jac.combine(jnp.ones(4))))(jac)
    assert_same((gram, 0), pair(losses_fn, PARAMS)[1])
    assert jax.tree.structure(update) == jax.tree.structure(PARAMS)


@MODES
def test_vmap_and_scan(mode):
    @jax.jit
    def gram(scale):
        return matrix_free.linearize(lambda params: losses_fn(params) * scale, PARAMS, mode=mode)[1].gram()

    scales = jnp.array([1.0, 2.0])
    one_by_one = jnp.stack([gram(scale) for scale in scales])
    assert jnp.allclose(jax.vmap(gram)(scales), one_by_one, rtol=1e-5)
    assert jnp.allclose(lax.map(gram, scales), one_by_one, rtol=1e-5)


def test_errors_are_sentences():
    with pytest.raises(ValueError, match="expected mode to be one of forward, reverse, rows, got 'both'"):
        matrix_free.linearize(losses_fn, PARAMS, mode="both")
    with pytest.raises(ValueError, match="expected chunk_size of at least 1 task"):
        matrix_free.linearize(losses_fn, PARAMS, chunk_size=0)
    with pytest.raises(ValueError, match=r"expected losses of shape \(T,\)"):
        matrix_free.linearize(lambda params: jnp.sum(params["first"]), PARAMS)
    with pytest.raises(ValueError, match="floating-point leaves"):
        matrix_free.linearize(lambda params: jnp.ones(2), {"step": jnp.arange(2)})
