"""Factories made from weightings: signatures, documentation and behaviour of handwritten ones."""

import doctest
import inspect

import jax.numpy as jnp
import numpy as np
import pytest
from cases import draw

import mtlgrad_jax as mtl
from mtlgrad_jax.transforms import gram_methods

MADE = [
    name for name, value in vars(gram_methods).items() if getattr(value, "__module__", "") == "mtlgrad_jax.transforms"
]
OPTIONS = {"constant": {"weights": (0.2, 0.8)}}


def test_every_method_is_found():
    assert len(MADE) >= 16 and all(getattr(mtl, name) is getattr(gram_methods, name) for name in MADE)


@pytest.mark.parametrize("name", MADE)
def test_signature_is_that_of_a_handwritten_factory(name):
    parameters = list(inspect.signature(getattr(mtl, name)).parameters.values())
    assert parameters[0].name == "num_tasks" and parameters[0].default is None
    assert [p.name for p in parameters[-2:]] == ["axis_name", "nonfinite"]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters[1:])
    options = inspect.signature(getattr(mtl.weightings, name)).parameters
    assert {p.name for p in parameters[1:-2]} == set(options) - {"gram", "log2_scale"}
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        getattr(mtl, name)(no_such_option=1, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", MADE)
def test_documentation_names_every_parameter_and_its_example_runs(name):
    method = getattr(mtl, name)
    for parameter in inspect.signature(method).parameters:
        assert f"\n  {parameter}: " in method.__doc__
    for section in ("Args", "Returns", "Raises", "Example", "References"):
        assert f"\n{section}:\n" in method.__doc__
    (test,) = doctest.DocTestFinder(recurse=False).find(method, name, module=False, globs={})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert test.examples and runner.run(test, out=lambda text: None).failed == 0


@pytest.mark.parametrize("name", MADE)
def test_update_is_that_of_the_weighting(name):
    task_grads = draw("opposed", 2)
    options = OPTIONS.get(name, {})
    tx = getattr(mtl, name)(num_tasks=2, **options)
    state = tx.init(jnp.zeros(task_grads.shape[1]))
    update, state = tx.update(jnp.asarray(task_grads), state)
    weighting = getattr(mtl.weightings, name)
    gram = jnp.asarray(task_grads @ task_grads.T)
    if name == "pcd":
        weights = weighting(**options).update(gram, weighting(**options).init(2))[0]
    else:
        weights = weighting(gram, **options)
    np.testing.assert_allclose(update, np.asarray(weights) @ task_grads, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.weights, weights, rtol=1e-4)
    if name in ("dualproj", "cagrad", "nash_mtl", "fairgrad", "upgrad"):
        assert state.gap < 1e-5
