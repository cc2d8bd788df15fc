"""The tables that the tests of all methods cross: methods, from their claims, and nasty Jacobians.

There is no list of methods here: what `mtl.methods.claims()` finds is asked, at its defaults and in the variants that
it names, through its Optax factory, as a user would.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtlgrad_jax as mtl
from mtlgrad_jax.typing import PROMISES, Claims

SIZES = tuple(map(int, os.environ.get("NUMBERS_OF_TASKS", "1 2 8").split()))
NUM_STEPS = 3
NUM_COLUMNS = 64  # zero columns are appended, so that one compilation serves the Jacobians of all widths


@dataclasses.dataclass(frozen=True)
class Case:
    """A method with options, and what it claims with them."""

    name: str
    variant: str
    claims: Claims = dataclasses.field(compare=False, hash=False)

    def __str__(self):
        return "-".join(filter(None, (self.name, self.variant)))

    def make(self, num_tasks: int | None, **options: Any) -> optax.GradientTransformationExtraArgs:
        required = self.claims.options(3 if num_tasks is None else num_tasks)
        return getattr(mtl, self.name)(num_tasks, **(dict(required) | options))

    def extras(self, task_grads: Any, losses: jax.Array) -> dict[str, Any]:
        """Return what a step wants besides the gradients."""
        wanted = {"L": {"losses": losses}, "X": {"second_task_grads": task_grads}}
        return {
            key: value for need, extra in wanted.items() if need in self.claims.needs for key, value in extra.items()
        }

    def keeps(self, promise: str) -> bool:
        assert promise in PROMISES
        return promise in self.claims.keeps

    @property
    def num_tasks(self) -> int:
        """Three, or as many as it takes: where one number of tasks is as good as any."""
        return min(3, self.claims.max_tasks or 3)

    @property
    def on_rows(self) -> bool:
        return "R" in self.claims.needs

    @property
    def reads_more_than_the_gram(self) -> bool:
        return bool(set("RX") & set(self.claims.needs))

    @functools.cached_property
    def reads_the_gram(self) -> bool:
        return jax.eval_shape(self.make(self.num_tasks).init, jnp.zeros(3)).gram is not None

    @property
    def one_per_step(self) -> bool:
        return "O" in self.claims.needs

    @property
    def sizes(self) -> list[int]:
        most = self.claims.max_tasks
        return [t for t in SIZES if self.claims.min_tasks <= t <= (t if most is None else most)]


def cases_of(name: str, claims: Claims) -> list[Case]:
    variants: Mapping[str, Mapping[str, Any]] = claims.variants or {}
    return [Case(name, "", claims)] + [
        Case(name, variant, claims._replace(**changes)) for variant, changes in variants.items()
    ]


def one_of_each_kind(cases: list[Case]) -> list[Case]:
    """Return all that are given more of J than its Gram matrix, and of the others one for each set of needs.

    For questions about how J is read or what is done about it, which come before and after the weights: G is the same
    to all that see nothing else. The one with the most promises speaks for its kind.
    """
    kinds: dict[Any, list[Case]] = {}
    for case in cases:
        alone = str(case) if case.reads_more_than_the_gram else ""
        kinds.setdefault((alone, case.claims.needs, case.reads_the_gram), []).append(case)
    return [max(kind, key=lambda case: len(case.claims.keeps)) for kind in kinds.values()]


METHODS = [case for name, claims in mtl.methods.claims().items() for case in cases_of(name, claims)]
PLAIN = [case for case in METHODS if not case.variant]
if os.environ.get("ONE_OF_EACH_KIND"):  # see test_one_device
    METHODS, PLAIN = one_of_each_kind(METHODS), one_of_each_kind(PLAIN)
CROSSED: dict[str, list[str]] = {}  # from a promise to the tests that ask for it


def that_keep(promise: str):
    """Ask a test of every method that claims to keep a promise."""

    def mark(test):
        CROSSED.setdefault(promise, []).append(test.__name__)
        chosen = [case for case in METHODS if case.keeps(promise)]
        return pytest.mark.parametrize("case", chosen, ids=str)(test)

    return mark


every_method = pytest.mark.parametrize("case", METHODS, ids=str)
every_plain_method = pytest.mark.parametrize("case", PLAIN, ids=str)


@functools.cache
def training(case: Case, num_tasks: int, dtype: Any = jnp.float32, nonfinite: str = "propagate"):
    """Return a jitted function from a sequence of Jacobians (steps, T, P) to the last update and the record."""
    tx = case.make(num_tasks, nonfinite=nonfinite)

    def step(state, inputs):
        task_grads, losses = inputs
        if case.one_per_step:
            for task in range(num_tasks):
                update, state = tx.update(task_grads[task], state, task=task)
            return state, update
        update, state = tx.update(task_grads, state, **case.extras(task_grads, losses))
        return state, update

    @jax.jit
    def train(sequence, losses):
        state, updates = jax.lax.scan(step, tx.init(jnp.zeros(NUM_COLUMNS, dtype)), (sequence, losses))
        return updates[-1], state

    return train


def widen(task_grads: np.ndarray) -> np.ndarray:
    return np.pad(task_grads, ((0, 0), (0, NUM_COLUMNS - task_grads.shape[1])))


def falling_losses(num_tasks: int, num_steps: int = NUM_STEPS) -> np.ndarray:
    """Return losses of 1, 2, …, T that fall from step to step."""
    return (np.arange(1, num_tasks + 1) / np.arange(1, num_steps + 1)[:, None]).astype(np.float32)


def train(case: Case, *steps: np.ndarray, dtype: Any = jnp.float32, order: np.ndarray | None = None):
    """Return the update, and the record, after some steps; a single Jacobian is seen three times."""
    steps = steps * NUM_STEPS if len(steps) == 1 else steps
    order = np.arange(len(steps[0])) if order is None else order
    sequence = np.stack([widen(rows[order]) for rows in steps])
    return training(case, len(order), dtype)(
        jnp.asarray(sequence, dtype), falling_losses(len(order), len(steps))[:, order]
    )


def update_of(case: Case, *steps: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """Return the last update in float64, where it is a combination of rows from the weights."""
    update, state = train(case, *steps, order=order)
    if case.on_rows:
        return np.asarray(update, np.float64)[: steps[-1].shape[1]]
    rows = steps[-1].astype(np.float64)
    return np.asarray(state.weights, np.float64) @ (rows if order is None else rows[order])


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
