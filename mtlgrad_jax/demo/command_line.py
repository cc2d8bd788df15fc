"""What a user types, and one clear line when it cannot be done."""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mtlgrad_jax.demo import methods

FORMATS = (".png", ".pdf", ".svg")
INSTALL = 'pip install ".[demo]"'
DESCRIPTION = """\
Train a network on two losses, three seeds at once, in four ways: on their sum; on the sum of the losses divided
by their values at the start; with a method of mtlgrad_jax in front of Adam; and with mtl.guard around both, so
that no step hurts a task on its batch. Prints a table with a verdict, and saves a figure.

problems:
  equation  a physics-informed network solves Helmholtz' equation; one loss is the equation's, one the
            boundary's, which the sum drowns (default method: {equation})
  parallel  two overlapping handwritten digits; reading the left and reading the right one are two equal
            tasks (default method: {parallel})
  primary   the same; the left digit is what counts, the right one is an auxiliary task, which the method does
            not follow but keeps from getting worse (default method: {primary})
  noisy     the primary task is both digits on many canvases with 40 % wrong labels, the auxiliary task both
            digits on a few canvases with right labels (default method: {noisy})

The verdict under the table also says where a method does not win. One jitted step takes the gradient of each
loss (mtl.task_value_and_grad, mtl.separate_value_and_grad), and
optax.chain(method, optax.adam(...)) turns the stack of them into one update.
"""
METHODS = """\
methods:
{choices}
"""


class OneLineParser(argparse.ArgumentParser):
    """A parser that answers a bad argument with one line and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def parser() -> OneLineParser:
    """Describe the command line; this much works without the demo's dependencies.

    Returns:
      The parser.

    Example:
      >>> from mtlgrad_jax.demo import command_line
      >>> command_line.parser().parse_args(["--steps", "10"]).steps
      10
    """
    described = OneLineParser(
        prog="python -m mtlgrad_jax",
        description=DESCRIPTION.format(**methods.DEFAULTS),
        epilog=METHODS.format(
            choices=textwrap.fill(", ".join(methods.choices()), 108, initial_indent="  ", subsequent_indent="  ")
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = described.add_argument
    add("--problem", choices=list(methods.DEFAULTS), default="equation", help="which two losses (%(default)s)")
    add("--method", metavar="NAME", help="one of those below; the problem's default if not given")
    add("--steps", metavar="N", type=_steps, default=1500, help="train steps of each run (%(default)s)")
    add("--seed", metavar="N", type=_seed, default=0, help="first of the three seeds (%(default)s)")
    add(
        "--out",
        metavar="PATH",
        type=_out,
        default=Path("out"),
        help=f"folder or {', '.join(FORMATS)} file for the figure (%(default)s)",
    )
    return described


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says.

    Args:
      arguments: Words after the program's name; those it was started with by default.

    Raises:
      SystemExit: With status 2 after a bad argument, 1 if the demo's dependencies are not installed.
    """
    described = parser()
    options = described.parse_args(arguments)
    name = options.method or methods.DEFAULTS[options.problem]
    try:
        method = methods.make(name)
        path = figure_path(options.out, f"{options.problem}_{name}_seed{options.seed}.png")
        comparison = _import_comparison(described)
        comparison.run(options.problem, name, method, num_steps=options.steps, seed=options.seed, path=path)
    except methods.UnsuitableMethod as error:
        described.error(f"argument --method: {error}")
    except OSError as error:
        described.error(f"argument --out: cannot write {error.filename!r} ({error.strerror})")


def figure_path(out: Path, default_name: str) -> Path:
    """Decide where the figure goes, and find out before training whether it can be written.

    Args:
      out: A folder, made if needed, or a file with the suffix of a known format.
      default_name: Name of the file in a folder.

    Returns:
      The file.

    Raises:
      OSError: If nothing can be written there.

    Example:
      >>> import pathlib, tempfile
      >>> from mtlgrad_jax.demo import command_line
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     command_line.figure_path(pathlib.Path(folder) / "new", "figure.png").name
      'figure.png'
    """
    path = out if out.suffix.lower() in FORMATS and not out.is_dir() else out / default_name
    path.parent.mkdir(parents=True, exist_ok=True)
    existed = path.exists()
    path.open("ab").close()
    if not existed:
        path.unlink()
    return path


def _import_comparison(described: argparse.ArgumentParser):
    """Import what needs Flax, scikit-learn, Matplotlib and the rest, or say how to get them."""
    try:
        from mtlgrad_jax.demo import comparison
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.startswith("mtlgrad_jax"):
            raise
        described.exit(
            1, f"the demo needs {missing.name}, which is not installed; in a checkout of mtlgrad_jax: {INSTALL}\n"
        )
    return comparison


def _steps(text):
    return _whole_number(text, 1, 10**7)


def _seed(text):
    return _whole_number(text, 0, 2**31 - 4)


def _out(text):
    out = Path(text)
    if out.suffix and out.suffix.lower() not in FORMATS and not out.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder or a {', '.join(FORMATS)} file, got {text!r}")
    return out


def _whole_number(text, lowest, highest):
    number = int(text) if text.strip().lstrip("+-").isdecimal() else None
    if number is None or not lowest <= number <= highest:
        raise argparse.ArgumentTypeError(f"expected a whole number from {lowest} to {highest}, got {text!r}")
    return number
