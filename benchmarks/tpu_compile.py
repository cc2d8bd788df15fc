"""Claim: on a TPU slice an update moves 1.5 times 2TP + P floats at most, sends one T×T matrix and gathers nothing.

    pip install "jax[tpu]"
    python -m benchmarks.tpu_compile [--quick] [--out FOLDER]

The compiler of the TPU writes the programs for eight chips (v5e, 2x4) with parameters split over them; no TPU is
needed, and nothing is run. `update` is the transformation on stacked gradients; `stacked` and `matrix_free` are whole
steps of a two-layer network by `descent_direction`, whose own products send activations. Read off the programs, on
the path that ordinary gradients take:

    moved / bound  bytes between main memory and chip, padding and prefetches included, over 1.5·(2TP + P)·4 per chip
    T×T, gathers   all-reduces of the Gram matrix; all-gathers, all-to-alls and other collectives that move parameters
    temp MB        temporary memory per chip

The compiler's own "bytes accessed" is in the JSON too. It counts reads of the memory on the chip and the branch that
rescues gradients from under- and overflow, which reads J twice more. Last figures (jax 0.10.2; the
steps on stacked gradients are those of the quick run):

    programme   method        T         P    moved  T×T  gathers  temp MB
    update      mgda          2   8392704     0.80    1        0      0.5  met
    update      primary_aux   2   8392704     0.80    1        0      0.5  met
    update      upgrad        2   8392704     0.80    1        0      0.5  met
    update      mgda          8   8404992     0.82    1        0      1.7  met
    update      primary_aux   8   8404992     0.82    1        0      1.7  met
    update      upgrad        8   8404992     0.82    1        0      1.3  met
    update      mgda         32   8454144     0.82    1        0      1.8  met
    update      primary_aux  32   8454144     0.82    1        0      1.8  met
    update      upgrad       32   8454144     0.82    1        0      1.5  met
    matrix_free mgda          2   8392704        –    0        0      1.5  met
    matrix_free primary_aux   2   8392704        –    0        0      1.5  met
    matrix_free upgrad        2   8392704        –    0        0      1.3  met
    matrix_free mgda          8   8404992        –    0        0      2.5  met
    matrix_free primary_aux   8   8404992        –    0        0      2.5  met
    matrix_free upgrad        8   8404992        –    0        0      2.0  met
    matrix_free mgda         32   8454144        –    0        0      2.5  met
    matrix_free primary_aux  32   8454144        –    0        0      2.5  met
    matrix_free upgrad       32   8454144        –    0        0      2.3  met
    stacked     mgda          8   2105344        –    1        0      9.7  met
    stacked     primary_aux   8   2105344        –    1        0      9.7  met
    stacked     upgrad        8   2105344        –    1        0      9.5  met

Outcome: met by all; an update moves at most 1.23 times 2TP + P floats. Compiled for a TPU, not run on one.
"""

import argparse
import importlib.util
import json
import os
import time
from functools import partial
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
TOPOLOGY = "v5e:2x4"
METHODS = ("mgda", "primary_aux", "upgrad")
BATCH = 256
# What libtpu would otherwise ask the machine for. Set before it is loaded.
WITHOUT_A_TPU = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def mesh():
    import jax
    from jax.experimental import topologies
    from jax.sharding import AxisType

    topology = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY)
    return jax.make_mesh((8,), ("model",), devices=topology.devices, axis_types=(AxisType.Auto,))


def arguments(devices, width, num_tasks):
    """Return parameters, their stacked gradients and a batch: shapes with shardings, no data."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    def array(shape, *spec):
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(devices, P(*spec)))

    leaves = {  # two square leaves, split along different axes
        "up": ((width, width), (None, "model")),
        "down": ((width, width), ("model", None)),
        "heads": ((width, num_tasks), (None, None)),
    }
    params = {name: array(shape, *spec) for name, (shape, spec) in leaves.items()}
    task_grads = {name: array((num_tasks, *shape), None, *spec) for name, (shape, spec) in leaves.items()}
    return params, task_grads, array((BATCH, width)), array((BATCH, num_tasks))


def losses_fn(params, x, y):
    import jax
    import jax.numpy as jnp

    hidden = jax.nn.relu(jax.nn.relu(x @ params["up"]) @ params["down"])
    return jnp.mean((hidden @ params["heads"] - y) ** 2, axis=0)


def programme(name, method, params, task_grads, x, y):
    """Return a function and its arguments."""
    import mtlgrad_jax as mtl

    if name == "update":
        tx = getattr(mtl, method)()
        return lambda task_grads, params: tx.update(task_grads, tx.init(params), params)[0], (task_grads, params)
    direction = partial(mtl.descent_direction, losses_fn, method=name)
    return lambda params, x, y: direction(params, getattr(mtl.weightings, method), x, y)[1], (params, x, y)


def compile_one(devices, name, method, num_tasks, width):
    import jax

    from benchmarks import compiled

    params, task_grads, x, y = arguments(devices, width, num_tasks)
    function, args = programme(name, method, params, task_grads, x, y)
    start = time.perf_counter()
    program = jax.jit(function).lower(*args).compile()
    text = program.as_text()
    sent = compiled.collectives(text)
    count = sum(leaf.size for leaf in params.values())
    held = sum(
        leaf.sharding.shard_shape(leaf.shape)[0] * leaf.sharding.shard_shape(leaf.shape)[1] for leaf in params.values()
    )
    ideal = 4 * (2 * num_tasks * held + held)
    keeps = jax.tree.map(lambda out, leaf: out.is_equivalent_to(leaf.sharding, 2), program.output_shardings, params)
    return {
        "programme": name,
        "method": method,
        "T": num_tasks,
        "P": count,
        "moved": compiled.main_memory_bytes(text) / ideal if name == "update" else None,
        "bytes accessed": program.cost_analysis()["bytes accessed"] / ideal,
        "all-reduces": sum(opcode == "all-reduce" for opcode, _, _ in sent),
        "T×T": sum((num_tasks, num_tasks) in shapes for opcode, _, shapes in sent if opcode == "all-reduce"),
        "gathers": sum(opcode != "all-reduce" for opcode, _, _ in sent),
        "to the host": len(compiled.host_transfers(text)),
        "keeps sharding": all(jax.tree.leaves(keeps)),
        "temp MB": program.memory_analysis().temp_size_in_bytes / 2**20,
        "seconds to compile": time.perf_counter() - start,
    }


def met(row):
    """Whether a programme keeps the claim; what a whole step moves is the network's business."""
    small = row["moved"] is None or row["moved"] <= 1.5
    one = row["T×T"] == (row["programme"] != "matrix_free")  # whose sweeps end in the network's own activations
    return small and one and row["gathers"] == row["to the host"] == 0 and row["keeps sharding"]


def show(row):
    moved = "       –" if row["moved"] is None else f"{row['moved'] / 1.5:8.2f}"
    return (
        f"{row['programme']:11s} {row['method']:11s} {row['T']:3d} {row['P']:9d} {moved} {row['T×T']:4d} "
        f"{row['gathers']:8d} {row['temp MB']:8.1f}  {'met' if met(row) else 'MISSED'}"
    )


HEAD = "programme   method        T         P    moved  T×T  gathers  temp MB"


def cases(quick):
    if quick:  # the Gram matrix and combination are the same for all methods
        yield "update", "mgda", 8, 1024
        yield from ((name, method, 8, 1024) for name in ("stacked", "matrix_free") for method in METHODS)
        return
    for num_tasks in (8, 2, 32):
        for name in ("update", "matrix_free"):
            yield from ((name, method, num_tasks, 2048) for method in METHODS)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one T, whole steps too, fewer updates")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError("No module named 'libtpu'; pip install \"jax[tpu]\"")
    os.environ.update(WITHOUT_A_TPU)
    import jax

    devices = mesh()
    rows = []
    print(HEAD)
    for name, method, num_tasks, width in cases(options.quick):
        rows.append(compile_one(devices, name, method, num_tasks, width))
        print(show(rows[-1]), flush=True)
        found = {"compiled for": TOPOLOGY, "run": False, "jax": jax.__version__, "rows": rows}
        (options.out / "tpu_compile.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    missed = [row for row in rows if not met(row)]
    worst = max(row["moved"] for row in rows if row["moved"] is not None)
    print(f"Claim {f'missed by {len(missed)}' if missed else 'met by all'} of {len(rows)} programmes.")
    print(f"An update moves at most {worst:.2f} times 2TP + P floats. Compiled for a TPU ({TOPOLOGY}), not run on one.")


if __name__ == "__main__":
    main()
