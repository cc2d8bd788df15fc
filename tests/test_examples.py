"""The example scripts run, learn within a few steps, are short, and the text beside them says what is true."""

import csv
import doctest
import math
import runpy
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks" / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))

pytestmark = pytest.mark.standard_promotion


def run(name, *arguments):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"](list(map(str, arguments)))


def test_there_is_one_for_every_framework_short_and_listed():
    listed = (FOLDER / "README.md").read_text()
    assert len(SCRIPTS) == 5
    for path in SCRIPTS:
        assert len(path.read_text().splitlines()) < 80 and f"]({path.name})" in listed, path.name


def test_the_text_beside_them():
    results = doctest.testfile(
        str(FOLDER / "README.md"), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert results.attempted > 20 and results.failed == 0


@pytest.mark.parametrize(
    ("name", "steps"), [("adapters_equinox", 20), ("physics_informed", 60), ("recommender_embedding", 20)]
)
def test_it_learns(name, steps):
    first, last = run(name, "--steps", steps)
    assert len(first) == len(last) == 2 and sum(last) < 0.95 * sum(first)


def test_nnx_writes_a_log_with_the_names_of_the_tasks(tmp_path):
    first, last = run("nnx_batch_norm_dropout", "--steps", 20, "--log", tmp_path / "log.csv")
    assert all(after < before for before, after in zip(first, last, strict=True))
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert len(rows) == 20 and {"price", "weight/price", "cosine/kind/rating", "num_hurt"} <= rows[0].keys()
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())


def test_seeds_draw_each_by_itself():
    reward, seeds = run("seeds_under_vmap", "--steps", 30)
    assert reward.shape == (16, 30, 3) and jnp.mean(reward[:, -5:]) > jnp.mean(reward[:, :5])
    keys = seeds.opt_state[0].inner_state.memory.key
    assert len(np.unique(keys, axis=0)) == 16
