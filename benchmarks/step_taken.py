"""Claim: behind most optimisers steps hurt tasks that the direction spares; behind `guard` none does, at no loss.

    python -m benchmarks.step_taken [--quick] [--out FOLDER]

A step hurts if its cosine with the gradient of a protected task on its own batch is below -1e-5; "where it rose"
evaluates that loss again behind the step, on the same batch. 300 steps from each of three seeds:

- digits: class, parity and size of scikit-learn's digits from one hidden layer, 64 images a step;
- Burgers' equation: network and three losses of `burgers.py`, 500 of its 2000 points inside;
- noisy labels: 40 % wrong labels as the primary and a hundred clean images, all of them in every step, as the
  auxiliary, which alone is protected.

Rate 1e-3 (sgd 1e-1, momentum 2e-2, lion 3e-4, muon 5e-3; sgd and momentum a tenth of that on Burgers' equation, where
runs of `conflict_free` and guarded ones of `mean` diverged). Optax 0.2.8 ships neither Shampoo nor SOAP: of what
preconditions more than single entries, Muon and Adafactor. GaLore was left out, its singular value decompositions
take a minute a cell. Methods: mean, mgda, upgrad, primary_aux, conflict_free, and "one",
`momentum_conflict_free`, which takes the row of one task a step and ends in an optimiser of its own; its step is
judged and guarded by the gradients of all. Guarded in the Euclidean metric, and in that of optimisers that have one.

Shares of steps and held-out losses, these as a mean over tasks relative to the plain run of the same seed and method:
means over methods and seeds, and the spread (jax 0.10.2, CPU):

                                % of plain steps that hurt       worst cosine   % where it rose    held-out, of plain
                             mean  mgda upgr. prim. conf.   one  plain  guard plain eucl.  opt.      eucl.       opt.
    digits, sgd               0.0   0.0   0.0   0.0   0.0        -0.00 -7e-08  10.6  10.6       1.00 ±0.00
    digits, momentum         16.4  16.8  16.1  31.8  27.3        -0.64 -1e-06  24.0  20.9       1.00 ±0.01
    digits, adam              7.8   9.7   7.3   5.6   7.4        -0.21 -3e-07   7.9   7.4   7.4 1.00 ±0.00 1.00 ±0.00
    digits, adamw             7.8   9.8   7.3   5.7   7.3        -0.21 -2e-07   8.0   7.2   7.3 1.00 ±0.00 1.00 ±0.00
    digits, rmsprop           0.0   0.0   0.0  10.2   0.0        -0.04 -7e-08   2.3   1.7   1.7 1.00 ±0.00 1.00 ±0.00
    digits, lion              0.1   0.1   0.1   4.4   0.0        -0.03 -6e-08   1.0   0.6       1.00 ±0.00
    digits, muon              0.1   1.2   0.1  55.9   0.3        -0.09 -1e-07  11.8   9.4       0.99 ±0.01
    digits, adafactor         0.0   0.0   0.0   8.4   0.0        -0.03 -7e-08   1.8   1.4       1.00 ±0.00
    digits, its own                                        23.2  -0.24 -4e-07  25.1  25.4  25.9 1.00 ±0.01 0.98 ±0.01
    burgers, sgd             95.3   0.0   0.0   9.2   0.0        -0.99 -2e-06  52.2  52.7       1.02 ±0.05
    burgers, momentum        95.8  32.4  53.2  45.9  65.2        -0.99 -2e-06  59.1  76.4       1.32 ±0.54
    burgers, adam            92.6  85.7  81.4  70.2  87.9        -0.69 -3e-06  89.4  89.3  92.3 1.00 ±0.53 0.84 ±0.23
    burgers, adamw           92.7  86.9  82.1  73.6  85.7        -0.68 -3e-06  90.2  88.7  92.1 1.03 ±0.51 0.90 ±0.36
    burgers, rmsprop         86.9  39.2  13.7  28.2  30.2        -0.67 -2e-06  88.6  86.9  86.9 0.90 ±0.30 1.21 ±0.90
    burgers, lion            97.6  71.9  45.7  66.3  60.4        -0.59 -1e-06  89.4  94.2       1.29 ±0.71
    burgers, muon            72.9  55.6  33.9  39.9  70.3        -0.51 -1e-06  86.0  91.3       1.00 ±0.29
    burgers, adafactor       85.6  45.3  22.1  46.8  32.4        -0.69 -1e-06  94.2  94.5       1.04 ±0.14
    burgers, its own                                       81.0  -0.49 -2e-06  86.7  91.0  90.3 1.79 ±0.13 1.57 ±0.11
    noisy labels, sgd         4.1   0.0   0.0   0.0   0.0        -0.40 -1e-07  13.5  13.5       1.00 ±0.00
    noisy labels, momentum   10.1   0.0   4.7  17.1   2.7        -0.31 -2e-07  12.6  13.9       0.99 ±0.01
    noisy labels, adam        1.8   0.0   0.0   1.0   0.0        -0.08 -5e-08   0.9   0.9   0.9 1.00 ±0.00 1.00 ±0.00
    noisy labels, adamw       1.7   0.0   0.0   1.0   0.0        -0.08 -4e-08   0.8   0.8   0.8 1.00 ±0.00 1.00 ±0.00
    noisy labels, rmsprop     4.3   0.0   0.0   5.4   0.0        -0.26 -2e-07   7.4   7.6   7.6 1.00 ±0.00 1.00 ±0.00
    noisy labels, lion        0.0   0.0   0.0   0.0   0.0         0.21  2e-01   0.0   0.0       1.00 ±0.00
    noisy labels, muon        0.4   0.0   0.0   1.4   0.0        -0.04 -2e-08   0.5   0.5       1.00 ±0.00
    noisy labels, adafactor   5.0   0.0   0.0   6.7   0.0        -0.24 -1e-07   8.5   8.8       1.00 ±0.00
    noisy labels, its own                                   0.0  -0.00 -0e+00   0.0   0.0   0.0 1.00 ±0.00 1.00 ±0.00

The clean loss of noisy labels is deterministic, so the promise is about the loss itself. The sum of all its rises over
runs of `primary_aux` and Adam of one length in time, 100 steps at 4e-3 to 800 at 5e-4:

    rises of the clean loss       rate 4e-03      rate 2e-03      rate 1e-03      rate 5e-04
    plain                      0.0433 ±0.0329   0.0179 ±0.0060   0.0025 ±0.0005   0.0020 ±0.0010
    euclidean                  0.0172 ±0.0110   0.0074 ±0.0027   0.0013 ±0.0004   0.0004 ±0.0002
    optimizer                  0.0175 ±0.0116   0.0075 ±0.0028   0.0014 ±0.0004   0.0005 ±0.0002

Guarded cells, held-out losses as above, each the mean of its seeds, and how many are more than 5 % worse or better:

    held-out, of plain         cells   least  median  largest   >1.05    <.95
    digits, euclidean             41    0.97    1.00     1.01       0       0
    digits, optimizer             16    0.98    1.00     1.00       0       0
    burgers, euclidean            41    0.45    1.03     2.48      16      12
    burgers, optimizer            16    0.44    0.94     2.18       5       9
    noisy labels, euclidean       41    0.98    1.00     1.00       0       0
    noisy labels, optimizer       16    0.99    1.00     1.00       0       0

Outcome: the promise is kept in every guarded cell. 171 cells of 294 are guarded, worst cosine -3.1e-06.
Plain steps hurt in 80 of 123 cells: on Burgers' equation in 73 to 98 % of the steps of the mean behind any optimiser,
and in 14 to 88 % of those of other methods behind all but sgd; on digits in 5 to 10 % behind Adam, 16 to 32 % behind
momentum. Optimisers without momentum (sgd, RMSprop, Adafactor), Lion and Muon spare nearly all on digits, but for
`primary_aux`, whose direction lies on the edge of the cone already.
What it buys is the first order and no more: the share of steps in which a loss really rose hardly changes, since a step
along the edge of the cone leaves the loss to its curvature. Rises of a deterministic loss become shorter, half to a
quarter of the plain ones, and vanish faster than the rate (8 times smaller steps: 38 times smaller sum; plain 22,
because conflicts become rarer too). No step stood still but the first ones of "one", which wait for all tasks.
Held-out losses are the same on digits and noisy labels. After 300 steps on Burgers' equation they are better or worse
by up to two and a half times; M-ConFIG ("one") loses most, 1.8 and 1.6 times, Lion 1.3.
"""

import argparse
import itertools
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mtlgrad_jax as mtl
from benchmarks import burgers, digits, pinn
from benchmarks.timing import machine

RESULTS = Path(__file__).parent / "results"
HURT = -1e-5  # a cosine
ROSE = 1e-6  # of the loss, a few rounding units
ONE_LOSS = "momentum_conflict_free"  # one loss a step, and an optimiser of its own

METHODS = {
    "mean": mtl.weightings.mean,
    "mgda": mtl.weightings.mgda,
    "upgrad": mtl.weightings.upgrad,
    "primary_aux": mtl.weightings.primary_aux,
    "conflict_free": mtl.weightings.conflict_free,
}
OPTIMIZERS = {
    "sgd": lambda rate: optax.sgd(100 * rate),
    "momentum": lambda rate: optax.sgd(20 * rate, momentum=0.9),
    "adam": optax.adam,
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0.01),
    "rmsprop": optax.rmsprop,
    "lion": lambda rate: optax.lion(0.3 * rate),
    "muon": lambda rate: optax.contrib.muon(5 * rate),
    "adafactor": lambda rate: optax.adafactor(rate, min_dim_size_to_factor=8, multiply_by_parameter_scale=False),
    "its own": optax.scale_by_learning_rate,
}
SHORTER = {("burgers", "sgd"): 0.1, ("burgers", "momentum"): 0.1}  # steps, where others do not come back
WITH_SECOND_MOMENT = ("adam", "adamw", "rmsprop", "its own")
GUARDS = ("plain", "euclidean", "optimizer")
# A program runs for a second a method: compiling it well takes longer than it saves.
COMPILER = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
NUM_STEPS, NUM_SEEDS, RATE = 300, 3, 1e-3


class Problem(NamedTuple):
    """What a run starts from."""

    params: Any
    draw: Any  # key -> batch
    losses: Any  # (params, batch) -> (T,)
    held_out: Any  # params -> (T,)


def three_tasks(key, *, batch_size=64):
    """Return the class of a digit, whether it is odd, and whether it is above four, from one hidden layer."""
    inputs, labels = digits.load()
    order_key, trunk_key, head_key = jax.random.split(key, 3)
    order = jax.random.permutation(order_key, labels.shape[0])
    train, test = order[:1000], order[-500:]
    trunk = digits.init(trunk_key, width=64)[0]
    head = {"w": jax.random.normal(head_key, (64, 14)) / 8, "b": jnp.zeros(14)}

    def losses(params, which):
        hidden = jax.nn.relu(inputs[which] @ params[0]["w"] + params[0]["b"])
        scores = jnp.split(hidden @ params[1]["w"] + params[1]["b"], (10, 12), axis=1)
        targets = labels[which], labels[which] % 2, (labels[which] > 4).astype(jnp.int32)
        cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
        return jnp.stack([jnp.mean(cross_entropy(s, t)) for s, t in zip(scores, targets, strict=True)])

    draw = lambda key: jax.random.choice(key, train, (batch_size,), replace=False)
    return Problem([trunk, head], draw, losses, lambda params: losses(params, test))


def burgers_equation(key, *, num_points=500):
    """Return initial values, boundary values and the equation inside, at a quarter of the published points."""
    init_key, test_key = jax.random.split(key)
    drawn = *burgers.DRAWN[:2], lambda key: burgers.interior_points(key)[:num_points]
    terms = [pinn.loss_of(*pair) for pair in zip(burgers.RESIDUALS, drawn, strict=True)]

    def losses(params, key):
        return jnp.stack([loss(params, k) for loss, k in zip(terms, jax.random.split(key, 3), strict=True)])

    params = pinn.init(init_key, burgers.SIZES, bias=0.001)
    return Problem(params, lambda key: key, losses, lambda params: losses(params, test_key))


def noisy_labels(key, *, noise=0.4, batch_size=64):
    """Return batches with wrong labels as the primary, and the whole of a hundred clean images as the auxiliary."""
    inputs, labels = digits.load()
    order_key, noise_key, init_key = jax.random.split(key, 3)
    order = digits.balanced_order(order_key, labels)
    clean, noisy, test = order[:100], order[100:1100], order[-500:]
    wrong = digits.corrupt(noise_key, labels[noisy], noise)

    def losses(params, batch):
        primary = digits.cross_entropy(params, inputs[noisy[batch]], wrong[batch])
        return jnp.stack([primary, digits.cross_entropy(params, inputs[clean], labels[clean])])

    def held_out(params):
        loss = digits.cross_entropy(params, inputs[test], labels[test])
        return jnp.stack([loss, digits.cross_entropy(params, inputs[clean], labels[clean])])

    draw = lambda key: jax.random.choice(key, noisy.shape[0], (batch_size,), replace=False)
    return Problem(digits.init(init_key, width=64), draw, losses, held_out)


PROBLEMS = {"digits": three_tasks, "burgers": burgers_equation, "noisy labels": noisy_labels}
PROTECTED = {"noisy labels": (1,)}  # all tasks elsewhere


def one_at_a_time(transform):
    """Hand a method that takes one gradient a step the row of the task whose turn it is."""

    def update(task_grads, state, params=None, **extra_args):
        row = jax.tree.map(lambda leaf: leaf[state.memory.next_task], task_grads)
        return transform.update(row, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(transform.init, update)


def inverse_roots(state):
    """Return what `momentum_conflict_free` multiplies its direction by, but for a number."""
    return jax.tree.map(lambda square: 1 / (jnp.sqrt(square) + 1e-8), optax.tree.get(state, "squares"))


def optimizer(problem, method, name, guard, rate, num_tasks):
    """Return the chain, guarded or plain, of the method with that number."""
    if name == "its own":
        first = one_at_a_time(mtl.momentum_conflict_free(num_tasks))
    else:
        first = mtl.aggregate(lambda gram: jax.lax.switch(method, list(METHODS.values()), gram))
    chain = optax.chain(first, OPTIMIZERS[name](SHORTER.get((problem, name), 1) * rate))
    if guard == "plain":
        return chain
    metric = inverse_roots if (name, guard) == ("its own", "optimizer") else guard
    return mtl.guard(chain, metric=metric, protected=PROTECTED.get(problem))


def train(key, method, rate, num_steps, *, problem, name, guard):
    """Train one network; return what its steps did to the protected tasks, and the held-out losses at the end."""
    start_key, batch_key = jax.random.split(key)
    params, draw, losses_fn, held_out = PROBLEMS[problem](start_key)
    num_tasks = jax.eval_shape(held_out, params).shape[0]
    tx = optimizer(problem, method, name, guard, rate, num_tasks)
    protected = jnp.array(PROTECTED.get(problem, range(num_tasks)))

    def step(number, carry):
        params, state, told = carry
        batch = draw(jax.random.fold_in(batch_key, number))
        losses, task_grads = mtl.task_value_and_grad(losses_fn)(params, batch)
        updates, state = tx.update(task_grads, state, params)
        worst = jnp.min(mtl.diagnostics.step_cosines(task_grads, updates)[protected])
        params = optax.apply_updates(params, updates)
        rise = (losses_fn(params, batch) - losses)[protected]
        told = {
            "hurt": told["hurt"] + (worst < HURT) / num_steps,
            "worst": jnp.minimum(told["worst"], worst),
            "rose": told["rose"] + jnp.any(rise > ROSE * losses[protected]) / num_steps,
            "rise": told["rise"] + jnp.maximum(rise[-1], 0),
            "still": told["still"] + (optax.tree.norm(updates) == 0) / num_steps,
        }
        return params, state, told

    told = {"hurt": 0.0, "worst": 1.0, "rose": 0.0, "rise": 0.0, "still": 0.0}
    start = params, tx.init(params), jax.tree.map(jnp.asarray, told)
    params, _, told = jax.lax.fori_loop(0, num_steps, step, start)
    return told | {"held out": held_out(params)}


@lru_cache(maxsize=len(GUARDS))
def trainer(**kind):
    """Return the program of all methods, for a batch of seeds that run one after another: branches stay branches."""

    def run_all(keys, *args):
        return jax.lax.map(lambda key: train(key, *args, **kind), keys)

    return jax.jit(run_all, compiler_options=COMPILER)


def run(cell, num_seeds, num_steps, rate=RATE):
    """Return the row of one cell, with lists over seeds."""
    keys = jax.random.split(jax.random.key(0), num_seeds)
    number = list(METHODS).index(cell["method"]) if cell["method"] in METHODS else 0
    program = trainer(**{key: cell[key] for key in ("problem", "name", "guard")})
    told = jax.device_get(program(keys, number, rate, num_steps))
    rounded = lambda values: [float(f"{value:.4g}") for value in values]
    return (
        cell
        | {key: rounded(values) for key, values in told.items() if key != "held out"}
        | {"held out": [rounded(losses) for losses in told["held out"]]}
    )


def cells(problems=PROBLEMS, optimizers=OPTIMIZERS, methods=METHODS):
    """Yield the cells of the study; the second metric is asked of optimisers that have one."""
    for problem, name, guard in itertools.product(problems, optimizers, GUARDS):
        if guard == "optimizer" and name not in WITH_SECOND_MOMENT:
            continue
        for method in [ONE_LOSS] if name == "its own" else methods:
            yield {"problem": problem, "name": name, "guard": guard, "method": method}


def halved_rates(num_seeds, num_steps, rates):
    """Return the summed rises of a deterministic auxiliary over runs of one length in time, at falling rates."""
    rows = []
    for guard, rate in itertools.product(GUARDS, rates):
        cell = {"problem": "noisy labels", "name": "adam", "guard": guard, "method": "primary_aux"}
        row = run(cell, num_seeds, round(num_steps * rates[0] / rate), rate)
        rows.append({"guard": guard, "rate": rate, "rise": row["rise"], "hurt": row["hurt"]})
        print(f"{guard:10s} {rate:.1e} rises add up to {np.mean(row['rise']):.5f}", flush=True)
    return rows


COLUMNS = dict(zip([*METHODS, ONE_LOSS], ("mean", "mgda", "upgr.", "prim.", "conf.", "one"), strict=True))


def table(rows):
    """Return the table of the header: a line per problem and optimiser."""
    lines = [
        f"{'':23s}{'% of plain steps that hurt':^36s}{'worst cosine':>14s}{'% where it rose':>18s}"
        f"{'held-out, of plain':>22s}",
        f"{'':23s}" + "".join(f"{column:>6s}" for column in COLUMNS.values()) + f"{'plain':>7s}{'guard':>7s}"
        f"{'plain':>6s}{'eucl.':>6s}{'opt.':>6s}{'eucl.':>11s}{'opt.':>11s}",
    ]
    for problem, name in dict.fromkeys((row["problem"], row["name"]) for row in rows):
        mine = [row for row in rows if (row["problem"], row["name"]) == (problem, name)]
        of = {guard: [row for row in mine if row["guard"] == guard] for guard in GUARDS}
        texts = [percent([row for row in of["plain"] if row["method"] == method], "hurt") for method in COLUMNS]
        texts.append(f"{worst(of['plain']):7.2f}{worst(of['euclidean'] + of['optimizer']):7.0e}")
        texts += [percent(of[guard], "rose") for guard in GUARDS]
        texts += [held_out_ratio(of[guard], of["plain"]) for guard in GUARDS[1:]]
        lines.append(f"{problem + ', ' + name:23s}" + "".join(texts))
    return "\n".join(line.rstrip() for line in lines)


def percent(rows, key):
    return f"{100 * np.mean([row[key] for row in rows]):6.1f}" if rows else f"{'':6s}"


def worst(rows):
    return np.min([row["worst"] for row in rows])


def held_out_ratio(rows, plain):
    """Return the loss relative to that of the same method and seed, mean and spread over both."""
    if not rows:
        return f"{'':11s}"
    ratios = ratios_to_plain(rows, plain)
    return f"{np.mean(ratios):5.2f} ±{np.std(ratios):.2f}"


def ratios_to_plain(rows, plain):
    """Return held-out losses, cells by seeds, relative to those of the same cell and seed without a guard."""
    of = {(row["name"], row["method"]): np.mean(row["held out"], axis=1) for row in plain}
    return np.array([np.mean(row["held out"], axis=1) / of[row["name"], row["method"]] for row in rows])


def ranges(rows):
    """Return the third table: losses relative to plain over the guarded cells of a problem."""
    lines = [
        f"{'held-out, of plain':24s}{'cells':>8s}{'least':>8s}{'median':>8s}{'largest':>9s}{'>1.05':>8s}{'<.95':>8s}"
    ]
    for problem, guard in itertools.product(dict.fromkeys(row["problem"] for row in rows), GUARDS[1:]):
        of = {g: [row for row in rows if (row["problem"], row["guard"]) == (problem, g)] for g in (guard, "plain")}
        cells = ratios_to_plain(of[guard], of["plain"]).mean(axis=1)
        numbers = f"{cells.min():8.2f}{np.median(cells):8.2f}{cells.max():9.2f}"
        counts = f"{np.sum(cells > 1.05):8d}{np.sum(cells < 0.95):8d}"
        lines.append(f"{problem + ', ' + guard:24s}{len(cells):8d}{numbers}{counts}")
    return "\n".join(lines)


def verdict(rows):
    """Say whether the promise was kept."""
    guarded = [row for row in rows if row["guard"] != "plain"]
    told = "met" if worst(guarded) >= HURT else "missed"
    return f"{len(guarded)} guarded cells of {len(rows)}, worst cosine {worst(guarded):.1e}: {told}"


def rates_table(rows):
    """Return the second table: the sum of all rises of the clean loss."""
    rates = sorted({row["rate"] for row in rows}, reverse=True)
    lines = [f"{'rises of the clean loss':24s}" + "".join(f"{f'rate {rate:.0e}':>16s}" for rate in rates)]
    for guard in GUARDS:
        sums = [next(r["rise"] for r in rows if (r["guard"], r["rate"]) == (guard, rate)) for rate in rates]
        lines.append(f"{guard:24s}" + "".join(f"{np.mean(s):9.4f} ±{np.std(s):.4f}" for s in sums))
    return "\n".join(lines)


def study(path, plan, num_seeds, num_steps):
    """Return the row of every cell, from a file if an interrupted study left it there."""
    key = lambda cell: (cell["problem"], cell["name"], cell["guard"], cell["method"])
    rows = {key(row): row for row in (json.loads(path.read_text()) if path.exists() else [])}
    plan = list(plan)
    for cell in plan:
        if key(cell) in rows:
            continue
        start = time.perf_counter()
        row = rows[key(cell)] = run(cell, num_seeds, num_steps)
        path.write_text(json.dumps(list(rows.values())))
        told = f"hurt {np.mean(row['hurt']):.3f} worst {worst([row]):8.1e}"
        print(" ".join(f"{name:14s}" for name in key(cell)), told, f"{time.perf_counter() - start:4.0f} s", flush=True)
    return [rows[key(cell)] for cell in plan]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, a few steps, one method")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    plan, sizes, halving = cells(), (NUM_SEEDS, NUM_STEPS), (NUM_SEEDS, 100, (4e-3, 2e-3, 1e-3, 5e-4))
    if options.quick:
        plan, sizes, halving = cells(["noisy labels"], ["adam"], ["primary_aux"]), (2, 4), (2, 3, (1e-3, 5e-4))
    options.out.mkdir(parents=True, exist_ok=True)
    so_far = options.out / "step_taken_so_far.json"  # where an interrupted study goes on
    rows, halved = study(so_far, plan, *sizes), halved_rates(*halving)
    stored = {"machine": machine(), "rows": rows, "halved rates": halved}
    (options.out / "step_taken.json").write_text(json.dumps(stored) + "\n")
    so_far.unlink()
    print(table(rows), rates_table(halved), ranges(rows), verdict(rows), sep="\n\n")


if __name__ == "__main__":
    main()
