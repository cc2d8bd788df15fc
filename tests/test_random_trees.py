"""A thousand random trees: the record and the update against float64, whatever the parameters look like.

Run without compilation, primitive by primitive: a program for each of a thousand trees would take an hour.
"""

import os

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

import mtlgrad_jax as mtl

SHAPES = [(), (1,), (0,), (5,), (2, 3), (3, 0, 2), (1, 2, 1)]
ROUNDING = {"float32": 1e-6, "complex64": 1e-6, "float16": 2.0**-10, "bfloat16": 2.0**-7}
DTYPES = [*ROUNDING, "int32", "bool"]

leaves = strategies.builds(
    jax.ShapeDtypeStruct, strategies.sampled_from(SHAPES), strategies.sampled_from(DTYPES).map(jnp.dtype)
)


def containers(children):
    return strategies.one_of(
        strategies.lists(children, max_size=3),
        strategies.tuples(children, children),
        strategies.dictionaries(strategies.sampled_from("abcd"), children, max_size=3),
    )


trees = strategies.recursive(leaves | strategies.none(), containers, max_leaves=6)


def draw_rows(tree, num_tasks, seed):
    """Return stacked gradients for a tree of shapes."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        shape = (num_tasks, *leaf.shape)
        values = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
        return jnp.asarray((values if leaf.dtype == "complex64" else 3 * values.real).astype(leaf.dtype))

    return jax.tree.map(draw, tree)


def as_double(leaf):
    return np.asarray(leaf, np.complex128 if jnp.iscomplexobj(leaf) else np.float64)


def floating(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype.name in ROUNDING]


def check(tree, num_tasks, seed):
    """Compare a step with its definition, on one tree."""
    weights = np.linspace(-1, 2, num_tasks)
    seen = {}

    def weighting(gram, *, log2_scale):
        seen.update(gram=gram, log2_scale=log2_scale)
        return jnp.asarray(weights, gram.dtype)

    tx, task_grads = mtl.aggregate(weighting), draw_rows(tree, num_tasks, seed)
    if not floating(tree):
        with pytest.raises(ValueError, match="got a tree without floating-point leaves"):
            tx.update(task_grads, tx.init(tree), tree)
        return
    update, _ = tx.update(task_grads, tx.init(tree), tree)

    assert jax.tree.structure(update) == jax.tree.structure(tree)
    for leaf, param in zip(jax.tree.leaves(update), jax.tree.leaves(tree), strict=True):
        assert (leaf.shape, leaf.dtype) == (param.shape, param.dtype)
        assert param.dtype.name in ROUNDING or not np.any(leaf)
    for leaf, rows in zip(floating(update), floating(task_grads), strict=True):
        tolerance = ROUNDING[leaf.dtype.name]
        expected = np.tensordot(weights, as_double(rows), 1)
        np.testing.assert_allclose(as_double(leaf), expected, rtol=tolerance, atol=10 * tolerance)

    rows = np.concatenate([as_double(rows).reshape(num_tasks, -1) for rows in floating(task_grads)], axis=1)
    gram = np.asarray(seen["gram"]) * 4.0 ** int(seen["log2_scale"])
    np.testing.assert_allclose(gram, (rows.conj() @ rows.T).real, rtol=1e-5, atol=1e-5)


NUMBER_OF_TREES = int(os.environ.get("NUMBER_OF_TREES", "1000"))


@hypothesis.settings(max_examples=NUMBER_OF_TREES, derandomize=True, database=None, deadline=None)
@hypothesis.given(trees, strategies.sampled_from([1, 3]), strategies.integers(0, 2**16))
def test_random_trees(tree, num_tasks, seed):
    with jax.disable_jit():
        check(tree, num_tasks, seed)
