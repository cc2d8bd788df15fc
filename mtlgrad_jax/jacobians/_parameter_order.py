"""Let a backward pass write the gradient of a matrix in the order of the matrix.

Of y = x·W reverse mode computes (ȳᵀx)ᵀ: a product and a transposition, which XLA leaves out for one gradient and
cannot for T of them. They then lie transposed, and every reader turns them around. xᵀȳ is the same product.
"""

from functools import lru_cache
from typing import Any

import jax
from jax import lax
from jax.extend import core


@lru_cache(maxsize=128)  # the same program for the same program, by which others know it again
def in_parameter_order(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """Rewrite (a·b)ᵀ as bᵀ·aᵀ, everywhere in a program.

    Args:
      jaxpr: Any program.

    Returns:
      One with the same results; the program itself where there is nothing to rewrite.
    """
    made_by, eqns = {}, []
    for eqn in jaxpr.eqns:
        eqns.append(_turned(eqn, made_by) or _with_programs_in_order(eqn))
        made_by.update(dict.fromkeys(eqn.outvars, eqns[-1]))
    if all(new is old for new, old in zip(eqns, jaxpr.eqns, strict=True)):
        return jaxpr
    read = set(_variables([*jaxpr.outvars, *(var for eqn in eqns for var in eqn.invars)]))
    return jaxpr.replace(eqns=[eqn for eqn in eqns if eqn.primitive.name != "dot_general" or eqn.outvars[0] in read])


def _variables(read):
    return [var for var in read if isinstance(var, core.Var)]


def _turned(eqn, made_by):
    """Return the product whose transpose an operation takes with its factors exchanged, None if it takes no such."""
    is_transpose = eqn.primitive.name == "transpose" and isinstance(eqn.invars[0], core.Var)
    product = made_by.get(eqn.invars[0]) if is_transpose else None
    if product is None or product.primitive.name != "dot_general":
        return None
    (contracted, batch), sharding = product.params["dimension_numbers"], product.params.get("out_sharding")
    left, right = (var.aval.ndim - len(axes) for var, axes in zip(product.invars, contracted, strict=True))
    exchanged = (*range(left, left + right), *range(left))
    if any(batch) or sharding is not None or tuple(eqn.params["permutation"]) != exchanged:
        return None
    precision = product.params["precision"]
    params = product.params | {
        "dimension_numbers": (contracted[::-1], batch),
        "precision": precision[::-1] if isinstance(precision, tuple) else precision,
    }
    return product.replace(invars=product.invars[::-1], outvars=eqn.outvars, params=params)


def _with_programs_in_order(eqn):
    params = {name: _rewritten(value) for name, value in eqn.params.items()}
    if all(params[name] is value for name, value in eqn.params.items()):
        return eqn
    return eqn.replace(params=params)


def _rewritten(param: Any) -> Any:
    """Return a parameter of an operation with the programs in it rewritten."""
    if isinstance(param, core.Jaxpr):
        return in_parameter_order(param)
    if isinstance(param, core.ClosedJaxpr):
        jaxpr = in_parameter_order(param.jaxpr)
        return param if jaxpr is param.jaxpr else param.replace(jaxpr=jaxpr)
    if isinstance(param, tuple):
        rewritten = tuple(map(_rewritten, param))
        return rewritten if any(new is not old for new, old in zip(rewritten, param, strict=True)) else param
    return param


def product_of_rows(left: jax.Array, right: jax.Array, params: dict[str, Any]) -> jax.Array:
    """Return a product whose second factor alone depends on the seed, so that under `vmap` the task axis comes first.

    One product of all tasks would put the axis in the middle. A lone CPU makes one for each task in its stead, from
    copies of the first factor, if these take no more room than the gradients.

    Args:
      left: The first factor, the same for all tasks.
      right: The second.
      params: Of the `dot_general`.

    Returns:
      The product.
    """

    def at_once(left, right):
        return lax.dot_general_p.bind(left, right, **params)

    def apart(left, right):
        entry = lax.squeeze(lax.slice(right, (0,) * right.ndim, (1,) * right.ndim), tuple(range(right.ndim)))
        return at_once(lax.select_n(entry == entry, left, left), right)  # depends on the seed, says `vmap`

    size = jax.eval_shape(at_once, left, right).size
    is_known = isinstance(size, int) and isinstance(left.size, int)  # as it is not where an exported batch has any size
    if jax.device_count() > 1 or not is_known or left.size > size or right.size == 0:
        return at_once(left, right)
    return lax.platform_dependent(left, right, cpu=apart, default=at_once)
