"""The Gram matrix and the combination of stacked task gradients, leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import mtlgrad_jax as mtl
from mtlgrad_jax.ground import leaves
from mtlgrad_jax.jacobians import stacked

RNG = np.random.default_rng(0)


def tree(num_tasks=3, dtype=np.float32):
    return {
        "w": RNG.standard_normal((num_tasks, 4, 5)).astype(dtype),
        "b": RNG.standard_normal(num_tasks).astype(dtype),
        "deep": [RNG.standard_normal((num_tasks, 2, 1, 3)).astype(dtype), None],
    }


def rows_of(task_grads):
    leaves = jax.tree.leaves(task_grads)
    return np.concatenate([np.asarray(leaf, np.float64).reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)


def as_arrays(task_grads, dtype=None):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), task_grads)


def test_gram_is_that_of_the_concatenated_rows():
    task_grads = tree()
    rows = rows_of(task_grads)
    np.testing.assert_allclose(stacked.gram(as_arrays(task_grads)), rows @ rows.T, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_accumulated_in_single(dtype):
    task_grads = {"w": jnp.asarray(RNG.standard_normal((3, 3000)) * 30, dtype)}
    gram = stacked.gram(task_grads)
    rows = rows_of(task_grads)
    assert gram.dtype == jnp.float32
    np.testing.assert_allclose(gram, rows @ rows.T, rtol=1e-5, atol=1e-6 * (rows**2).sum(axis=1).max())
    update = stacked.combine(task_grads, jnp.array([0.25, 0.5, 0.25]))
    assert update["w"].dtype == dtype
    expected = (np.array([0.25, 0.5, 0.25]) @ rows).astype(dtype)
    np.testing.assert_array_equal(np.asarray(update["w"], np.float32), expected.astype(np.float32))


def test_float64_is_kept_beside_float32():
    with jax.enable_x64(True):
        task_grads = {"narrow": jnp.ones((2, 3), jnp.float32), "wide": jnp.full((2, 1), 1e-9, jnp.float64)}
        gram = stacked.gram(task_grads)
        assert gram.dtype == jnp.float64
        np.testing.assert_allclose(gram, 3 + 1e-18, rtol=1e-15)
        update = stacked.combine(task_grads, jnp.array([0.5, 0.5], jnp.float64))
        assert (update["narrow"].dtype, update["wide"].dtype) == (jnp.float32, jnp.float64)


def test_complex_leaves_contribute_the_real_inner_product():
    rows = RNG.standard_normal((2, 4)) + 1j * RNG.standard_normal((2, 4))
    task_grads = jnp.asarray(rows, jnp.complex64)
    np.testing.assert_allclose(stacked.gram(task_grads), (rows.conj() @ rows.T).real, rtol=1e-5, atol=1e-5)
    update = stacked.combine(task_grads, jnp.array([0.5, 2.0]))
    assert update.dtype == jnp.complex64
    np.testing.assert_allclose(update, np.array([0.5, 2.0]) @ rows, rtol=1e-6)
    tiny = stacked.scaled_gram(task_grads * 2.0**-90)
    np.testing.assert_allclose(tiny[0] * 4.0 ** (int(tiny[1]) + 90), stacked.gram(task_grads), rtol=1e-6)


def test_integer_and_missing_leaves_are_left_out():
    task_grads = {"w": jnp.ones((2, 3)), "step": jnp.full((2,), 7, jnp.int32), "none": None}
    np.testing.assert_array_equal(stacked.gram(task_grads), jnp.full((2, 2), 3.0))
    update = stacked.combine(task_grads, jnp.array([1.0, 1.0]))
    assert update["none"] is None
    assert update["step"].dtype == jnp.int32
    assert update["step"] == 0


@pytest.mark.parametrize("power", [-100, -70, -40, -1, 0, 1, 40, 70, 100])
def test_any_common_scale_gives_the_gram_matrix_of_a_power_of_two(power):
    task_grads = as_arrays(tree())
    plain = stacked.gram(task_grads)
    scaled, exponent = stacked.scaled_gram(jax.tree.map(lambda leaf: leaf * 2.0**power, task_grads))
    np.testing.assert_array_equal(np.asarray(scaled, np.float64) * 4.0 ** (int(exponent) - power), plain)
    assert (int(exponent) == 0) == (abs(power) <= 40)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_unit_is_that_of_the_longest_row_wherever_it_lies(dtype):
    with jax.enable_x64(dtype == jnp.float64):
        info = jnp.finfo(dtype)
        scaled_gram = jax.jit(stacked.scaled_gram)
        for exponent in range(int(info.minexp) + 1, int(info.maxexp), 5 if dtype == jnp.float32 else 37):
            rows = np.ldexp(np.array([[1.5, 0.0], [0.0, 0.75], [0.0, 0.0]]), exponent)
            gram, k = scaled_gram(jnp.asarray(np.tile(rows, (1, 3)), dtype))
            scaled = np.diagonal(np.asarray(gram, float)) / 3
            np.testing.assert_array_equal(np.sqrt(scaled) * 2.0 ** (int(k) - exponent), [1.5, 0.75, 0.0])
            assert int(k) in (0, exponent + 2)  # 1.5·√3 is between 2 and 4


def test_twelve_decades_survive_any_common_scale():
    rows = RNG.standard_normal((4, 50)) * 10.0 ** np.array([[0], [-4], [-8], [-12]])
    expected = rows @ rows.T
    for scale in (1e-18, 1e-12, 1e-9, 1e-7, 1.0, 1e12, 1e18, 1e30):
        gram, exponent = stacked.scaled_gram(jnp.asarray(rows * scale, jnp.float32))
        actual = np.asarray(gram, np.float64) * 4.0 ** int(exponent) / scale**2
        lengths = np.sqrt(np.diag(expected))
        np.testing.assert_array_less(np.abs(actual - expected), 1e-6 * lengths[:, None] * lengths[None, :])


def test_a_row_that_is_not_finite_spoils_no_other():
    for bad in (np.nan, np.inf, -np.inf):
        task_grads = as_arrays(tree())
        clean = stacked.gram(task_grads)
        task_grads["w"] = task_grads["w"].at[1, 2, 3].set(bad)
        gram, exponent = stacked.scaled_gram(task_grads)
        others = np.ix_([0, 2], [0, 2])
        np.testing.assert_allclose(
            np.asarray(gram)[others] * 4.0 ** int(exponent), np.asarray(clean)[others], rtol=1e-6
        )
        assert not np.any(np.isfinite(gram[1]))
        update = stacked.combine(task_grads, jnp.array([0.5, 0.0, 0.5]), keep=jnp.array([True, False, True]))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(update))


def losses_fn(params, x):
    hidden = jnp.tanh(x @ params["w"] + params["b"][None, :])
    return jnp.stack([jnp.mean(hidden**2), jnp.sum(hidden), jnp.max(hidden)])


PARAMS = {"w": jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32), "b": jnp.zeros(3)}
X = jnp.asarray(RNG.standard_normal((6, 4)), jnp.float32)


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 3, 10])
def test_task_gradients_are_the_jacobian_of_the_losses(chunk_size):
    losses, task_grads = jax.jit(mtl.task_value_and_grad(losses_fn, chunk_size=chunk_size))(PARAMS, X)
    np.testing.assert_allclose(losses, losses_fn(PARAMS, X), rtol=1e-6)
    expected = jax.jacrev(losses_fn)(PARAMS, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), task_grads, expected)


def test_losses_may_be_a_tuple_or_a_dict_in_the_order_written_with_auxiliary_data():
    def as_dict(params, x):
        first, second, third = losses_fn(params, x)
        return {"z": first, "a": second, "m": third}, {"rows": x.shape[0]}

    (losses, aux), task_grads = mtl.task_value_and_grad(as_dict, has_aux=True)(PARAMS, X)
    assert aux == {"rows": 6}
    np.testing.assert_allclose(losses, losses_fn(PARAMS, X), rtol=1e-6)
    as_tuple = lambda params, x: tuple(losses_fn(params, x))
    _, expected = mtl.task_value_and_grad(as_tuple)(PARAMS, X)
    jax.tree.map(np.testing.assert_array_equal, task_grads, expected)


def test_integer_and_missing_parameters_get_zeros_and_none():
    params = {"w": jnp.ones(3), "count": jnp.array(5), "absent": None}
    fn = lambda p: jnp.stack([jnp.sum(p["w"] * p["count"].astype(jnp.float32)), p["w"][0]])
    _, task_grads = mtl.task_value_and_grad(fn)(params)
    np.testing.assert_array_equal(task_grads["w"], [[5, 5, 5], [1, 0, 0]])
    np.testing.assert_array_equal(task_grads["count"], [0, 0])
    assert task_grads["absent"] is None


def test_forward_pass_runs_once_whatever_the_number_of_tasks():
    num_calls = 0

    def counted(params, x):
        nonlocal num_calls
        num_calls += 1
        return losses_fn(params, x)

    mtl.task_value_and_grad(counted)(PARAMS, X)
    assert num_calls == 1


@pytest.mark.parametrize(
    ("task_grads", "sentence"),
    [
        ({"w": jnp.ones((4, 3)), "b": jnp.ones(3)}, r"of one and the same T, got .*\['b'\]: float32\(3,\)"),
        ({"w": jnp.ones((4, 3)), "b": jnp.ones(())}, r"of one and the same T, got .*\['b'\]: float32\(\)"),
        ({}, "without floating-point leaves"),
        ({"w": jnp.ones((2, 3), jnp.int32)}, r"without floating-point leaves.*int32\(2, 3\)"),
        (jnp.ones((0, 3)), "at least one task"),
    ],
)
def test_a_wrong_task_axis_is_named_with_its_shapes(task_grads, sentence):
    tx = mtl.mgda()
    for call in (stacked.gram, jax.jit(stacked.gram), lambda grads: tx.update(grads, tx.init({}))):
        with pytest.raises(ValueError, match=sentence):
            call(task_grads)


def test_expected_and_parameter_shapes_are_compared():
    params = {"w": jnp.ones((4, 3)), "b": jnp.ones(4)}
    for task_grads, sentence in (
        (params, r"the parameters' own shapes .*\['b'\]: float32\(4,\).*first in optax.chain, and use mtl.accumulate"),
        ({"w": jnp.ones((3, 4, 3)), "b": jnp.ones((3, 5))}, r"got \(3, 5\) for a parameter of shape \(4,\)"),
    ):
        with pytest.raises(ValueError, match=sentence):
            mtl.mgda().update(task_grads, mtl.mgda().init(params), params)
    tx = mtl.mgda(num_tasks=3)
    with pytest.raises(ValueError, match=r"for num_tasks=3, got T=2 in \{array: float32\(2, 5\)\}"):
        tx.update(jnp.ones((2, 5)), tx.init(jnp.ones(5)))


@pytest.mark.parametrize(
    ("fn", "sentence"),
    [
        (lambda p: jnp.sum(p), r"expected losses of shape \(T,\).*got shape \(\)"),
        (lambda p: (jnp.sum(p), p), r"one scalar loss per task, got shapes \[\(\), \(3,\)\]"),
        (lambda p: {}, "one scalar loss per task"),
    ],
)
def test_losses_of_the_wrong_shape_are_explained(fn, sentence):
    with pytest.raises(ValueError, match=sentence):
        mtl.task_value_and_grad(fn)(jnp.ones(3))


@pytest.mark.parametrize("num_columns", [2 * 8192, 3 * 8192 + 17, 50_000])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_long_rows_in_slices_give_the_same_products(num_columns, dtype):
    left, right = (jnp.asarray(RNG.standard_normal((t, num_columns)), dtype) for t in (3, 2))
    expected = np.asarray(left, np.float64) @ np.asarray(right, np.float64).T
    for contract in (leaves.contract_matrices, lambda a, b: leaves.contract(a, b, 1)):
        actual = jax.jit(contract)(left, right)
        assert actual.dtype == jnp.float32
        np.testing.assert_allclose(actual, expected, atol=1e-6 * num_columns**0.5 * 8)
    jac = lambda rows: jnp.sum(leaves.contract_matrices(rows, rows))
    np.testing.assert_allclose(
        jax.grad(jac)(left[:2]), 2 * jnp.sum(left[:2], 0)[None, :].repeat(2, 0), rtol=2e-2, atol=1e-1
    )


alone = pytest.mark.skipif("jax.device_count() > 1", reason="what one device holds may be joined and cut")


@alone
def test_small_leaves_share_kernels():
    """One kernel a leaf, its combination: whether rows are finite is asked of all together; Adam takes three a leaf."""
    leaves = [jax.ShapeDtypeStruct((8, 10, 10 + index % 7), jnp.float32) for index in range(200)]
    state = jax.eval_shape(mtl.mean(num_tasks=8).init, leaves)
    text = jax.jit(mtl.mean(num_tasks=8).update).lower(leaves, state).compile().as_text()
    assert text.count(" dot(") + text.count("custom-call(") <= 0.1 * len(leaves)
    assert text.count(" fusion(") <= 1.2 * len(leaves)


@alone
def test_small_leaves_share_products():
    """Those of the Gram matrix, and of its rescue."""
    leaves = [jax.ShapeDtypeStruct((8, 10, 10 + index % 7), jnp.float32) for index in range(200)]
    assert jax.jit(stacked.scaled_gram).lower(leaves).as_text().count("dot_general") <= 0.1 * len(leaves)


@alone
@pytest.mark.parametrize("shape", [(4, 10**8), (4, 10**4, 10**4)])
def test_a_huge_leaf_is_never_copied(shape):
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    used = jax.jit(stacked.scaled_gram).lower(leaf).compile().memory_analysis()
    assert used.temp_size_in_bytes < 2**22


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e25])
def test_the_derivative_is_that_of_the_products(scale):
    rows = as_arrays(tree())
    weights = RNG.standard_normal((3, 3)).astype(np.float32)
    weighed = lambda rows: jnp.sum(weights * stacked.scaled_gram(rows)[0])
    _, exponent = stacked.scaled_gram(jax.tree.map(lambda leaf: scale * leaf, rows))
    slopes = jax.grad(weighed)(jax.tree.map(lambda leaf: scale * leaf, rows))
    expected = jnp.tensordot(weights + weights.T, rows["w"], 1, precision="highest") * scale * 2.0 ** -float(exponent)
    np.testing.assert_allclose(slopes["w"] * 2.0 ** float(exponent), expected, rtol=1e-4, atol=1e-5)


def test_a_population_does_not_pay_for_the_rescue():
    """Under vmap both sides of a branch run; what is left of the rescue is a loop that ends at once."""
    rows = jnp.asarray(RNG.standard_normal((5, 3, 300)), jnp.float32)

    def products_outside_loops(jaxpr):
        total = 0
        for equation in jaxpr.eqns:
            total += equation.primitive.name == "dot_general"
            inner = [] if equation.primitive.name == "while" else jaxprs_in_params(equation.params)
            total += sum(products_outside_loops(getattr(one, "jaxpr", one)) for one in inner)
        return total

    if jax.device_count() > 1:
        assert products_outside_loops(jax.make_jaxpr(jax.vmap(stacked.scaled_gram))(rows).jaxpr) == 1
    scales = jnp.float32([1.0, 1e-30, 1e25, 1.0, 0.0])
    scaled = rows * scales[:, None, None]
    together = jax.vmap(stacked.scaled_gram)(scaled)
    for index in range(5):
        for one, all_of_them in zip(stacked.scaled_gram(scaled[index]), together, strict=True):
            np.testing.assert_allclose(all_of_them[index], one, rtol=1e-6, atol=1e-6)
