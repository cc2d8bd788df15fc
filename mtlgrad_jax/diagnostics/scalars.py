"""All that a state tells of its last step, as named numbers that any logger takes."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.tree_util import DictKey

from mtlgrad_jax.diagnostics.direction import alignment
from mtlgrad_jax.diagnostics.gradients import cosines
from mtlgrad_jax.diagnostics.reading import is_record
from mtlgrad_jax.diagnostics.step_taken import hurt, is_step_record
from mtlgrad_jax.diagnostics.summary import summarize
from mtlgrad_jax.ground.grams import row_norms
from mtlgrad_jax.ground.ranges import scale_by_power_of_two
from mtlgrad_jax.solvers.certificates import relative_gap
from mtlgrad_jax.typing import PyTree


def scalars(opt_state: PyTree, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Describe the last step in a flat dict of numbers, for a CSV file, TensorBoard or Weights & Biases as it is.

    - `weight/A`, `length/A`: wᵢ, and the length of gᵢ
    - `cosine/A/B`, `alignment/A`: of gᵢ and gⱼ, and of gᵢ and u
    - `gap`, `num_nonfinite/A`: the method's certificate; steps so far with a broken gradient
    - `relative_gap`: how much longer than the shortest combination u is at most, in ‖u‖²
    - `num_hurt`, `conflicting_pairs`, …: what `summarize` returns
    - `step/cosine/A`, `step/cosine_before/A`: of `guard`, gᵢ and the step taken, and the optimiser's
    - `step/multiplier/A`, `step/certificate`: of `guard`, who objected, and what is left of conflicts
    - `step/num_hurt`: of `guard`, tasks whose loss the step taken raises
    - `micro_step`, `examples/A`: of `accumulate`, since the last step

    Args:
      opt_state: Any pytree with the state of at least one method or `guard` of this package that was made with
        `num_tasks`, see `read`. Where there are several of a kind, as in `optax.partition`, their keys begin with
        where they stand: `trunk/gap`, or `0/gap` without a name.
      names: Of the tasks, T different ones, for instance the dict of the losses; `"0"`, `"1"`, … by default.

    Returns:
      A dict of Python numbers, for which it waits until the step is done; inside `jit`, `scan` and the like of JAX
      scalars. What needs a Gram matrix is missing for a method that reads none, and zero where the update was no
      combination of the gradients.

    Raises:
      ValueError: If there is no record in the state, names are not T different ones, or the state has a leading axis
        (`jax.vmap` this function then).

    Example:
      >>> import jax.numpy as jnp, optax, mtlgrad_jax as mtl
      >>> tx = optax.chain(mtl.mgda(num_tasks=2), optax.adam(0.1))
      >>> params = jnp.zeros(3)
      >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
      >>> _, opt_state = tx.update(task_grads, tx.init(params), params)
      >>> logged = mtl.diagnostics.scalars(opt_state, names=["left", "right"])
      >>> [round(logged[key], 2) for key in ("weight/left", "weight/right", "cosine/left/right", "num_hurt")]
      [0.6, 0.4, -0.84, 0]
    """
    names = None if names is None else [str(name) for name in names]
    found = [
        *_nodes(opt_state, is_record, _measure_method),
        *_nodes(opt_state, is_step_record, _measure_step),
        *_nodes(opt_state, _is_accumulation, _measure_accumulation),
    ]
    if not found:
        raise ValueError(
            "expected a state with the record of a method, got none; make the method with num_tasks=T, as in "
            "mtl.mgda(num_tasks=2), so that it keeps gram, weights and gap."
        )
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(found)):
        return _flat(found, names)
    return {key: value.item() for key, value in _flat(jax.device_get(found), names).items()}


def _nodes(opt_state, is_node, measure):
    """Return a prefix and the measurements of every node of a kind."""
    leaves = jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=is_node)
    nodes = [(place, node) for place, node in leaves if is_node(node)]
    prefixes = _prefixes([place for place, _ in nodes])
    return [(prefix, measure(node)) for prefix, (_, node) in zip(prefixes, nodes, strict=True)]


def _prefixes(places):
    """Tell several places apart, by the keys of dicts on the way if they do, else by all steps of it."""
    if len(places) < 2:
        return [""] * len(places)
    named = ["".join(f"{entry.key}/" for entry in place if isinstance(entry, DictKey)) for place in places]
    if all(named) and len(set(named)) == len(named):
        return named
    common = next(i for i, steps in enumerate(zip(*places, strict=False)) if len(set(steps)) > 1)
    return ["".join(f"{jax.tree_util.keystr((entry,), simple=True)}/" for entry in place[common:]) for place in places]


def _measure_method(record):
    seen = jax.tree.map(jnp.asarray, (record.gram, record.log2_scale, record.weights, record.gap))
    measured = _measure_weights(*seen)
    if hasattr(record, "num_nonfinite"):
        measured["per task"]["num_nonfinite"] = jnp.asarray(record.num_nonfinite)
    return measured


@jax.jit
def _measure_weights(gram, log2_scale, weights, gap):
    if gram is None:
        return {"per task": {"weight": weights}}
    lengths = scale_by_power_of_two(row_norms(gram), log2_scale)
    per_task = {"weight": weights, "length": lengths, "alignment": alignment(gram, weights)}
    alone = {"gap": gap, "relative_gap": relative_gap(gram, weights)} | summarize(gram, weights)._asdict()
    return {"per task": per_task, "per pair": {"cosine": cosines(gram)}, "alone": alone}


@jax.jit
def _measure_step(record):
    per_task = {
        "step/cosine": record.cosines_after,
        "step/cosine_before": record.cosines_before,
        "step/multiplier": record.multipliers,
    }
    num_hurt = jnp.sum(hurt(record.cosines_after).astype(jnp.int32))
    return {"per task": per_task, "alone": {"step/certificate": record.certificate, "step/num_hurt": num_hurt}}


@jax.jit
def _measure_accumulation(state):
    return {"per task": {"examples": state.counts}, "alone": {"micro_step": state.micro_step}}


def _is_accumulation(node):
    return {"micro_step", "counts"} <= set(getattr(node, "_fields", ()))


def _flat(found, names):
    """Give every number its key."""
    flat = {}
    for prefix, measured in found:
        for key, row in measured["per task"].items():
            flat |= {f"{prefix}{key}/{name}": row[i] for i, name in enumerate(_checked(names, row))}
        for key, matrix in measured.get("per pair", {}).items():
            own = list(enumerate(_checked(names, matrix[0])))
            flat |= {f"{prefix}{key}/{a}/{b}": matrix[i, j] for i, a in own for j, b in own[i + 1 :]}
        flat |= {f"{prefix}{key}": value for key, value in measured.get("alone", {}).items()}
    return flat


def _checked(names, row):
    if row.ndim != 1:
        raise ValueError(f"expected one number per task, got shape {row.shape}; jax.vmap mtl.diagnostics.scalars.")
    if names is None:
        return [str(task) for task in range(len(row))]
    if len(names) != len(row) or len(set(names)) != len(names):
        raise ValueError(f"expected {len(row)} different names, one per task, got {names}.")
    return names
