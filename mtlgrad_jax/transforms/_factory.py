"""From a weighting with options to a documented Optax factory: what two dozen methods would repeat."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import optax

from mtlgrad_jax.solvers.certificates import conflict_gap
from mtlgrad_jax.transforms._aggregate import build
from mtlgrad_jax.typing import PER_STEP_EXTRAS

_TEMPLATE = """{head}

Args:
  num_tasks: T; if given, T is checked and the state keeps `gram`, `weights` and `gap`{needed}.
{options}  axis_name: See `aggregate`.
  nonfinite: See `aggregate`.

Returns:
  An Optax transformation of stacked task gradients whose update is Jᵀw; `gap` is {gap}.
  The weighting returns: {returns}

Raises:
  ValueError: See `aggregate` and `weightings.{name}`.

Example:
  >>> import jax.numpy as jnp, optax
  >>> import mtlgrad_jax as mtl
  >>> tx = optax.chain(mtl.{name}({example}), optax.sgd(0.1))
  >>> params = jnp.zeros(3)
  >>> state = tx.init(params)
  >>> task_grads = jnp.array([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
  >>> updates, state = tx.update(task_grads, state, params)
  >>> updates.shape, state[0].weights.shape
  ((3,), (2,))

References:
  {references}
"""


def factory(
    weighting: Callable[..., Any],
    *,
    certificate: Callable[..., Any] = conflict_gap,
    gap: str = "the deepest conflict with a task",
    example: str = "num_tasks=2",
    num_primary: int | None = None,
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """Make the Optax factory of a method from its weighting.

    Its signature is `num_tasks`, the options of the weighting, `axis_name` and `nonfinite`, and its
    docstring that of the weighting, told for transformations.

    Args:
      weighting: A function of a Gram matrix and keyword-only options, or a function of keyword-only options
        that returns a `typing.StatefulWeighting`.
      certificate: A function of gram and weights, and of those options of the weighting that it names too.
      gap: What the certificate measures, in words.
      example: The arguments of the example.
      num_primary: How many leading rows are primaries, see `_aggregate.build`.

    Returns:
      The factory.
    """
    parameters = inspect.signature(weighting).parameters
    stateless = "gram" in parameters
    options = [p for p in parameters.values() if p.name != "gram" and p.name not in PER_STEP_EXTRAS]
    signature = _signature(options)
    _gram, _weights, *named = inspect.signature(certificate).parameters
    shared = [p.name for p in options if p.name in named]

    def make(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        chosen = {p.name: bound.arguments[p.name] for p in options}
        return build(
            partial(weighting, **chosen) if stateless else weighting(**chosen),
            bound.arguments["num_tasks"],
            axis_name=bound.arguments["axis_name"],
            nonfinite=bound.arguments["nonfinite"],
            certificate=partial(certificate, **{name: chosen[name] for name in shared}),
            num_primary=num_primary,
        )

    make.__name__ = make.__qualname__ = weighting.__name__
    make.__module__ = "mtlgrad_jax.transforms"
    make.__signature__ = signature
    make.__doc__ = _document(
        weighting, options, gap, example, "" if stateless else "; needed, for the method keeps state"
    )
    return make


def _signature(options):
    optional_int, axes = int | None, str | tuple[str, ...] | None
    Parameter = inspect.Parameter
    return inspect.Signature(
        [
            Parameter("num_tasks", Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=optional_int),
            *options,
            Parameter("axis_name", Parameter.KEYWORD_ONLY, default=None, annotation=axes),
            Parameter("nonfinite", Parameter.KEYWORD_ONLY, default="propagate", annotation=str),
        ],
        return_annotation=optax.GradientTransformationExtraArgs,
    )


def _document(weighting, options, gap, example, needed):
    head, *rest = re.split(r"\n\n(Args|Returns|Raises|Example|References):\n", inspect.getdoc(weighting))
    sections = dict(zip(rest[::2], rest[1::2], strict=True))
    entries = re.findall(r"^  (\w+):(.*(?:\n    .*)*)", sections["Args"], re.MULTILINE)
    named = {p.name for p in options}
    return _TEMPLATE.format(
        head=head,
        needed=needed,
        options="".join(f"  {name}:{text}\n" for name, text in entries if name in named),
        gap=gap,
        returns=sections["Returns"].strip(),
        name=weighting.__name__,
        example=example,
        references=sections.get("References", f"See `weightings.{weighting.__name__}`.").strip(),
    )
