"""The studies of published results on networks: right mathematics, a quick run, headers that quote what is stored."""

import json
import sys
from importlib import import_module
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
STUDIES = ("burgers", "helmholtz", "auxiliary_tasks")
pytestmark = pytest.mark.standard_promotion


@pytest.fixture
def study(monkeypatch):
    """Import a benchmark from wherever pytest was started, and draw without a screen."""
    monkeypatch.syspath_prepend(str(ROOT))
    matplotlib.use("Agg")
    yield lambda name: import_module(f"benchmarks.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("name", STUDIES)
def test_quick_study_writes_numbers_and_a_figure(study, name, tmp_path, capsys):
    study(name).main(["--quick", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    quantity = {"burgers": "mse", "helmholtz": "error", "auxiliary_tasks": "error"}[name]
    values = np.array([row[quantity] for row in rows])
    assert values.shape[1] == 2 and np.all((values > 0) & (values < 10))
    assert 10_000 < (tmp_path / f"{name}.png").stat().st_size < 100_000
    assert study(name).table(rows) in capsys.readouterr().out


@pytest.mark.parametrize("name", STUDIES)
def test_header_quotes_the_stored_figures(study, name):
    stored = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    for line in study(name).table(stored["rows"]).splitlines():
        assert line.strip() in study(name).__doc__


def test_derivatives_in_one_pass_are_those_of_automatic_differentiation(study):
    pinn = study("pinn")
    params = pinn.init(jax.random.key(0), (2, 5, 4, 1), bias=0.3)
    points = jax.random.normal(jax.random.key(1), (6, 2))
    network = lambda point: pinn.apply(params, point[None])[0]
    slopes, curvatures = jax.vmap(jax.grad(network))(points), jax.vmap(jax.hessian(network))(points)
    expected = [
        jax.vmap(network)(points),
        slopes[:, 0],
        slopes[:, 1],
        2 * curvatures[:, 0, 0] + 3 * curvatures[:, 1, 1],
    ]
    np.testing.assert_allclose(pinn.derivatives(params, points, (2.0, 3.0)), np.stack(expected), rtol=1e-4, atol=1e-5)


def test_latin_hypercube_has_one_point_in_every_slice(study):
    points = np.asarray(study("pinn").latin_hypercube(jax.random.key(0), 20, 2))
    assert np.array_equal(np.sort(np.floor(20 * points), axis=0), np.tile(np.arange(20), (2, 1)).T)


def test_burgers_reference_solves_the_equation_and_does_not_depend_on_the_order(study):
    burgers = study("burgers")
    t, x = np.meshgrid(np.linspace(0, 1, 7), np.linspace(-1, 1, 33), indexing="ij")
    np.testing.assert_allclose(burgers.exact(x, t), burgers.exact(x, t, order=160), rtol=0, atol=1e-13)
    np.testing.assert_allclose(burgers.exact(x[0], t[0]), -np.sin(np.pi * x[0]), atol=1e-13)
    u = lambda dx, dt: burgers.exact(np.array([-0.7, -0.05, 0.02, 0.4]) + dx, 0.6 + np.array(4 * [dt]))
    h = 2e-4
    slope, speed = (u(h, 0) - u(-h, 0)) / (2 * h), (u(0, h) - u(0, -h)) / (2 * h)
    curvature = (u(h, 0) - 2 * u(0, 0) + u(-h, 0)) / h**2
    residual = speed + u(0, 0) * slope - burgers.VISCOSITY * curvature
    assert np.max(np.abs(residual)) < 2e-3 * np.max(np.abs(u(0, 0) * slope))


def test_helmholtz_reference_has_no_residual(study):
    helmholtz = study("helmholtz")
    value = lambda point: helmholtz.exact(point[None])[0]
    points = jax.random.uniform(jax.random.key(0), (5, 2), minval=-1, maxval=1)
    curvature = jax.vmap(lambda point: jnp.trace(jax.hessian(value)(point)))(points)
    source = helmholtz.source(points)
    np.testing.assert_allclose(curvature + helmholtz.exact(points), source, rtol=1e-3, atol=1e-2)


def test_auxiliary_projection_keeps_what_does_not_oppose_the_running_mean(study):
    tx = study("auxiliary_tasks").projection(strength=2.0, ema=0.25)
    state = tx.init(jnp.zeros(2))
    update, state = tx.update(jnp.array([[2.0, 0.0], [-1.0, 1.0]]), state)
    np.testing.assert_allclose(update, [2.0, 2.0], rtol=1e-6)
    update, state = tx.update(jnp.array([[-2.0, 0.0], [1.0, 1.0]]), state)  # the mean is still (1, 0)
    np.testing.assert_allclose(state.average, [1.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(update, [0.0, 2.0], rtol=1e-6, atol=1e-6)
