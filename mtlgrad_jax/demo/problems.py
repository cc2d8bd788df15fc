"""The problems by their names."""

from mtlgrad_jax.demo import equation, two_digits
from mtlgrad_jax.demo.problem import Problem


def make(name: str, seeds: tuple[int, ...]) -> Problem:
    """Make a problem with the data of several seeds.

    Args:
      name: `"equation"`, or a problem of `two_digits.make`.
      seeds: One set of data for each.

    Returns:
      The problem.

    Example:
      >>> from mtlgrad_jax.demo import problems
      >>> problems.make("equation", (0, 1)).tasks, problems.make("noisy", (0, 1)).tasks
      (('equation', 'boundary'), ('noisy labels', 'clean labels'))
    """
    return equation.make() if name == "equation" else two_digits.make(name, seeds)
