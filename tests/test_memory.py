"""Memory, read off the compiled programs: nothing runs, so nothing depends on the machine's load.

One test does run: under a limit on the memory of its process.
"""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import mtlgrad_jax as mtl
from mtlgrad_jax.jacobians import matrix_free, per_example

WIDTH, DEPTH, BATCH = 1024, 4, 64
PARAMETER_BYTES = 4 * DEPTH * WIDTH * WIDTH  # 16 MB


def network(params, x):
    for weight in params["trunk"]:
        x = jax.nn.relu(x @ weight)
    return x


def losses_fn(params, x, y):
    return jnp.mean((network(params, x) @ params["heads"] - y) ** 2, axis=0)


def plain(params, x, y):
    return jax.grad(lambda params: jnp.sum(losses_fn(params, x, y)))(params)


def direction(method):
    def run(params, x, y):
        return mtl.descent_direction(losses_fn, params, mtl.weightings.inverse_norm, x, y, method=method)

    return run


def bytes_used(function, *args):
    """Return temporary and output bytes: a loop may use the output as scratch."""
    used = jax.jit(function).lower(*args).compile().memory_analysis()
    return used.temp_size_in_bytes + used.output_size_in_bytes


def arguments(num_tasks, width=WIDTH):
    shapes = {"trunk": [(width, width)] * DEPTH, "heads": (width, num_tasks)}
    params = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), shapes, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )
    x, y = (jax.ShapeDtypeStruct((BATCH, size), jnp.float32) for size in (width, num_tasks))
    return params, x, y


def matrix_free_in(chunk_size, mode="forward"):
    def run(params, x, y):
        losses, jac = matrix_free.linearize(losses_fn, params, x, y, chunk_size=chunk_size, mode=mode)
        return losses, jac.combine(jac.gram()[0])

    return run


def test_matrix_free_needs_a_few_gradients_whatever_the_number_of_tasks():
    used = {}
    for num_tasks in (16, 64):
        args = arguments(num_tasks)
        used[num_tasks] = bytes_used(matrix_free_in(1), *args)
        assert used[num_tasks] <= bytes_used(plain, *args) + 3 * PARAMETER_BYTES
    assert used[64] - used[16] < 0.1 * PARAMETER_BYTES


def test_stacked_needs_a_gradient_per_task():
    """The claim above would be empty if the compiler kept the stack out of memory by itself."""
    assert bytes_used(direction("stacked"), *arguments(16)) > 15 * PARAMETER_BYTES


def test_descent_direction_keeps_the_promise():
    args = arguments(64)
    assert bytes_used(direction("matrix_free"), *args) <= bytes_used(plain, *args) + 3 * PARAMETER_BYTES


def test_chunk_size_is_the_number_of_gradients_held():
    args = arguments(16)
    used = [bytes_used(matrix_free_in(size), *args) for size in (1, 2, 4)]
    assert used == sorted(used)
    assert used[1] <= used[0] + 5 * PARAMETER_BYTES
    assert used[2] <= used[0] + 11 * PARAMETER_BYTES


def test_backward_sweeps_alone_hold_two_gradients():
    args = arguments(16)
    assert bytes_used(matrix_free_in(1, "reverse"), *args) <= bytes_used(plain, *args) + 5 * PARAMETER_BYTES


def test_rematerialisation_keeps_its_effect():
    """What the linearisation holds of a deep network on a large batch: every activation, or one per block."""
    params = jax.ShapeDtypeStruct((24, 32, 32), jnp.float32)

    def layers(x, weights):
        for weight in weights:
            x = jnp.tanh(x @ weight)
        return x

    def bytes_held(wrap):
        def losses_fn(weights, x):
            for start in range(0, 24, 6):
                x = wrap(layers)(x, weights[start : start + 6])
            return jnp.mean(x[:, :4] ** 2, axis=0)

        x = jax.ShapeDtypeStruct((4096, 32), jnp.float32)
        _, jac = jax.eval_shape(lambda params, x: matrix_free.linearize(losses_fn, params, x), params, x)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jac))

    assert bytes_held(jax.checkpoint) < 0.3 * bytes_held(lambda block: block)


def test_example_gradients_are_never_all_held():
    """Layer by layer there is none; of leaves that enter no layer that is recognised there are two blocks."""

    def run(chunk_size, known):
        def loss_fn(params, example):
            x, y = example
            params = params if known else jax.tree.map(jnp.sin, params)
            return jnp.mean((network(params, x) @ params["heads"] - y) ** 2)

        def gram_and_update(params, x, y):
            losses, jac = per_example.linearize(loss_fn, params, (x, y), chunk_size=chunk_size)
            return jac.combine(jac.gram()[0])

        return gram_and_update

    args = arguments(4, width=256)
    size = 4 * DEPTH * 256 * 256
    assert bytes_used(run(4, True), *args) < 4 * size
    assert bytes_used(run(None, False), *args) > BATCH * size
    assert bytes_used(run(4, False), *args) < 3 * 2 * 4 * size
    loss_fn = lambda params, example: jnp.mean((network(params, example[0]) @ params["heads"] - example[1]) ** 2)
    combine_only = lambda params, x, y: per_example.linearize(loss_fn, params, (x, y))[1].combine(jnp.ones(BATCH))
    assert bytes_used(combine_only, *args) < 3 * size


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA limits what a process maps on Linux only")
@pytest.mark.parametrize("method", ["stacked", "matrix_free"])
def test_trains_where_the_stacked_gradients_do_not_fit(method):
    """64 gradients of 4 MB and 128 MB to put them in."""
    script = Path(__file__).parents[1] / "benchmarks" / "train_in_little_memory.py"
    options = [method, "--width=512", "--num-tasks=64", "--megabytes=128"]
    run = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)
    if method == "stacked":
        assert run.returncode != 0
        assert "Out of memory" in run.stderr
    else:
        losses = json.loads(run.stdout)
        assert losses[-1] < 0.9 * losses[0]
