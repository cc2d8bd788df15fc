"""The tables that the promise tests cross: methods and nasty Jacobians.

A method is one row of METHODS, or of ROW_METHODS if the Gram matrix does not tell it enough; what it promises is said
there and tested in `test_promises.py` and `test_row_promises.py`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
import optax

import mtlgrad_jax as mtl
from mtlgrad_jax import weightings

PROMISES = {
    "non_conflicting": "no task is hurt: ⟨gᵢ,u⟩ ≥ 0 for every i",
    "primary_aux": "no auxiliary is hurt, and a primary that nothing opposes is followed exactly",
    "permutation": "relabelling the tasks relabels the weights",
    "permutation_near": "the same where lengths lie within one decade",
    "linear_under_scaling": "scaling one gradient by c moves the update along a straight line in c",
    "strongly_stationary": "u = 0 only where a combination with all weights positive vanishes",
    "alive": "tasks that agree are followed: u is a positive multiple of their common gradient",
}


@dataclass(frozen=True)
class Method:
    """One method at its defaults, as a function of the Gram matrix."""

    weigh: Callable[[jax.Array], jax.Array]
    promises: str  # names of PROMISES
    degree: int = 0  # weights(s²G) = s^degree · weights(G)
    min_tasks: int = 1
    max_tasks: int | None = None

    def keeps(self, promise):
        assert promise in PROMISES
        return promise in self.promises.split()


def first_step(weighting):
    """Return what a method with memory does at its first step, as a function of the Gram matrix."""
    return lambda gram: weighting.update(gram, weighting.init(gram.shape[0]))[0]


def third_step(weighting):
    """Return what a method with memory does when it sees the same Gram matrix and falling losses for the third time."""

    def weigh(gram):
        state = weighting.init(gram.shape[0])
        for step in range(3):
            weights, state = with_losses(weighting.update, 1 / (1 + step))(gram, state)
        return weights

    return weigh


def with_losses(method, scale=1.0):
    """Give a method losses of 1, 2, …, T times a scale, if it wants any."""
    if "losses" not in inspect.signature(method).parameters:
        return method
    return lambda gram, *rest: method(
        gram, *rest, losses=jax.numpy.arange(1, gram.shape[0] + 1).astype(gram.dtype) * scale
    )


METHODS = {
    "mgda": Method(weightings.mgda, "non_conflicting permutation alive"),
    "mgda_l2": Method(
        lambda gram: weightings.mgda(gram, normalization="l2"), "non_conflicting permutation alive", degree=-1
    ),
    "primary_aux": Method(weightings.primary_aux, "primary_aux alive"),
    "primary_aux_2": Method(lambda gram: weightings.primary_aux(gram, num_primary=2), "alive", min_tasks=2),
    "mean": Method(weightings.mean, "permutation linear_under_scaling strongly_stationary alive"),
    "sum": Method(weightings.sum, "permutation linear_under_scaling strongly_stationary alive"),
    "constant": Method(
        lambda gram: weightings.constant(gram, weights=range(1, gram.shape[0] + 1)),
        "linear_under_scaling strongly_stationary alive",
    ),
    "inverse_norm": Method(weightings.inverse_norm, "permutation strongly_stationary alive", degree=-1),
    "inverse_norm_2": Method(
        weightings.inverse_norm,
        "non_conflicting permutation strongly_stationary alive",
        degree=-1,
        min_tasks=2,
        max_tasks=2,
    ),
    "guided_masking": Method(weightings.guided_masking, "alive", min_tasks=2),
    "upgrad": Method(weightings.upgrad, "non_conflicting permutation linear_under_scaling strongly_stationary alive"),
    "dualproj": Method(weightings.dualproj, "non_conflicting permutation strongly_stationary alive"),
    "cagrad": Method(weightings.cagrad, "permutation strongly_stationary alive"),
    "cagrad_wide": Method(lambda gram: weightings.cagrad(gram, c=1.0, rescale="1+c^2"), "permutation alive"),
    "nash_mtl": Method(weightings.nash_mtl, "non_conflicting permutation alive", degree=-1),
    "fairgrad": Method(weightings.fairgrad, "non_conflicting permutation alive", degree=-1),
    "fairgrad_2": Method(lambda gram: weightings.fairgrad(gram, alpha=2.0), "permutation alive", degree=-4 / 3),
    "imtl_g": Method(weightings.imtl_g, "permutation alive"),
    "aligned_mtl": Method(weightings.aligned_mtl, "permutation_near alive"),
    "aligned_mtl_median": Method(lambda gram: weightings.aligned_mtl(gram, scale="median"), "permutation_near alive"),
    "aligned_mtl_rmse": Method(lambda gram: weightings.aligned_mtl(gram, scale="rmse"), "permutation_near alive"),
    "conflict_free": Method(weightings.conflict_free, "permutation alive"),
    **{
        f"dcgd_{variant}": Method(
            partial(weightings.dcgd, variant=variant),
            "non_conflicting permutation strongly_stationary alive",
            min_tasks=2,
            max_tasks=2,
        )
        for variant in ("center", "projection", "average")
    },
    "cosine_gate": Method(weightings.cosine_gate, "alive"),
    "cosine_gate_unweighted": Method(lambda gram: weightings.cosine_gate(gram, gate="unweighted"), "alive"),
    "aux_projection": Method(weightings.aux_projection, "strongly_stationary alive"),
    "dynamic_barrier": Method(weightings.dynamic_barrier, "alive"),
    "pcd": Method(first_step(weightings.pcd()), "alive"),
    "pcgrad": Method(
        first_step(weightings.keyed(weightings.pcgrad, key=0)), "linear_under_scaling strongly_stationary alive"
    ),
    "pcgrad_2": Method(
        first_step(weightings.keyed(weightings.pcgrad, key=0)),
        "non_conflicting permutation linear_under_scaling strongly_stationary alive",
        max_tasks=2,
    ),
    "gradvac": Method(third_step(weightings.gradvac()), "strongly_stationary alive"),
    "random_weights": Method(
        first_step(weightings.keyed(weightings.random_weights, key=0)), "linear_under_scaling strongly_stationary alive"
    ),
    "krum": Method(weightings.krum, "alive"),
    "krum_2_of_3": Method(lambda gram: weightings.krum(gram, num_byzantine=1, num_selected=2), "alive", min_tasks=4),
    "gradnorm": Method(third_step(weightings.gradnorm()), "strongly_stationary alive"),
    "loss_balanced": Method(with_losses(weightings.loss_balanced), "strongly_stationary alive"),
    "geometric": Method(with_losses(weightings.geometric), "linear_under_scaling strongly_stationary alive"),
    "si": Method(with_losses(weightings.si), "linear_under_scaling strongly_stationary alive"),
    "stch": Method(with_losses(weightings.stch), "linear_under_scaling strongly_stationary alive"),
    "uncertainty": Method(third_step(weightings.uncertainty()), "linear_under_scaling strongly_stationary alive"),
    "imtl_l": Method(third_step(weightings.imtl_l()), "linear_under_scaling strongly_stationary alive"),
    "dwa": Method(third_step(weightings.dwa()), "linear_under_scaling strongly_stationary alive"),
    "famo": Method(third_step(weightings.famo()), "linear_under_scaling strongly_stationary alive"),
    "every_k": Method(third_step(weightings.every_k(weightings.mgda, 2)), "non_conflicting permutation alive"),
    "smoothed": Method(third_step(weightings.smoothed(weightings.mgda)), "non_conflicting permutation alive"),
    "normalized": Method(weightings.normalized(weightings.mgda), "non_conflicting permutation alive", degree=-1),
}


@dataclass(frozen=True)
class RowMethod:
    """One transformation that needs the rows of J, or of several batches, at its defaults."""

    make: Callable[[int], optax.GradientTransformationExtraArgs]  # from T
    promises: str  # names of ROW_PROMISES
    extras: Callable[[jax.Array], dict] = lambda task_grads: {}  # keyword arguments of a step
    min_tasks: int = 1
    one_per_step: bool = False  # `update` takes the gradient of one task, each in turn

    def keeps(self, promise):
        assert promise in ROW_PROMISES
        return promise in self.promises.split()


ROW_PROMISES = {
    "alive": PROMISES["alive"],
    "in_span": "the update is a combination of the rows that the method has seen",
    "permutation": "relabelling the tasks does not move the update",
}


def unit_losses(task_grads):
    return {"losses": jax.numpy.ones(task_grads.shape[0])}


def same_batch_twice(task_grads):
    return {"second_task_grads": task_grads}


ROW_METHODS = {
    "graddrop": RowMethod(lambda t: mtl.graddrop(t), "alive permutation"),
    "trimmed_mean": RowMethod(lambda t: mtl.trimmed_mean(t), "alive permutation", min_tasks=3),
    "excess_mtl": RowMethod(mtl.excess_mtl, "alive in_span permutation"),
    "loss_balanced": RowMethod(mtl.loss_balanced, "alive in_span permutation", extras=unit_losses),
    "moco": RowMethod(mtl.moco, "alive in_span permutation"),
    "bloop": RowMethod(mtl.bloop, "alive in_span"),
    "modo": RowMethod(mtl.modo, "alive in_span permutation", extras=same_batch_twice),
    "sdmgrad": RowMethod(mtl.sdmgrad, "alive in_span permutation", extras=same_batch_twice),
    "momentum_conflict_free": RowMethod(mtl.momentum_conflict_free, "", one_per_step=True),
}


def gaussian(num_tasks, rng):
    return rng.standard_normal((num_tasks, 2 * num_tasks + 20))


def correlated(num_tasks, rng):
    return rng.standard_normal((1, 60)) + 0.3 * rng.standard_normal((num_tasks, 60 + num_tasks))[:, :60]


def opposed(num_tasks, rng):
    """Even tasks pull one way, odd tasks the other, with room to agree."""
    sign = np.where(np.arange(num_tasks) % 2, 1.0, -1.0)[:, None]
    num_params = 2 * num_tasks + 20
    return sign * rng.standard_normal(num_params) + 0.5 * rng.standard_normal((num_tasks, num_params))


def duplicated(num_tasks, rng):
    half = gaussian((num_tasks + 1) // 2, rng)
    return np.concatenate([half, half])[:num_tasks]


def spread_4(num_tasks, rng):
    return gaussian(num_tasks, rng) * 10 ** rng.uniform(-4, 0, (num_tasks, 1))


def spread_12(num_tasks, rng):
    return gaussian(num_tasks, rng) * 10 ** rng.uniform(-12, 0, (num_tasks, 1))


def huge(num_tasks, rng):
    return gaussian(num_tasks, rng) * 1e15


def minute(num_tasks, rng):
    return gaussian(num_tasks, rng) * 1e-15


def simplex_points(num_tasks, rng):
    """Rows x − eᵢ, whose shortest combination is x − P_Δ(x)."""
    return rng.standard_normal(num_tasks) - np.eye(num_tasks)


def zero(num_tasks, rng):
    del rng
    return np.zeros((num_tasks, 5))


def zero_row(num_tasks, rng):
    task_grads = gaussian(num_tasks, rng)
    task_grads[num_tasks // 2] = 0
    return task_grads


def low_rank(num_tasks, rng):
    rank = max(num_tasks // 2, 1)
    return rng.standard_normal((num_tasks, rank)) @ rng.standard_normal((rank, 30))


def stationary(num_tasks, rng):
    """A convex combination of the gradients vanishes."""
    if num_tasks == 1:
        return zero(1, rng)
    task_grads = gaussian(num_tasks, rng)
    shares = rng.dirichlet(np.full(num_tasks, 4.0))
    task_grads[-1] = -(shares[:-1] @ task_grads[:-1]) / shares[-1]
    return task_grads


def near_opposed(num_tasks, rng):
    sign = np.where(np.arange(num_tasks) % 2, 1.0, -1.0)[:, None]
    return sign * rng.standard_normal(40) + 1e-4 * rng.standard_normal((num_tasks, 40))


def exactly_opposed(num_tasks, rng):
    return np.where(np.arange(num_tasks) % 2, 1.0, -1.0)[:, None] * rng.standard_normal(10)


def parallel(num_tasks, rng):
    return (1.0 + np.arange(num_tasks))[:, None] * rng.standard_normal(10)


# Room for a common direction: the answer is well determined in float32.
BENIGN = {
    f.__name__: f
    for f in (gaussian, correlated, opposed, duplicated, spread_4, spread_12, huge, minute, simplex_points)
}
# The direction is (nearly) zero, or not unique: only finiteness and certificates can be asked.
DEGENERATE = {f.__name__: f for f in (zero, zero_row, low_rank, stationary, near_opposed, exactly_opposed, parallel)}
JACOBIANS = BENIGN | DEGENERATE


def half_stationary(num_tasks, rng):
    """Two gradients cancel and the others lean across them: stationary, but only with weights of zero."""
    task_grads = gaussian(num_tasks, rng)
    task_grads[1] = -rng.uniform(0.5, 2) * task_grads[0]
    across = rng.standard_normal(task_grads.shape[1])
    across -= (across @ task_grads[0]) / (task_grads[0] @ task_grads[0]) * task_grads[0]
    across /= np.linalg.norm(across)
    lean = rng.uniform(2, 10, num_tasks - 2)
    task_grads[2:] += np.outer(lean - task_grads[2:] @ across, across)
    return task_grads


# No combination with all weights positive vanishes: what is strongly stationary may not stop there.
NOT_STRONG = {f.__name__: f for f in (gaussian, simplex_points, zero_row, half_stationary)}


def draw(name, num_tasks, seed=0):
    """Return a float32 Jacobian of shape (T, P) by name."""
    return (JACOBIANS | NOT_STRONG)[name](num_tasks, np.random.default_rng(seed)).astype(np.float32)
