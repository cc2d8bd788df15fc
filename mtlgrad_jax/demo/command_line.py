"""What a user types, and one clear line when it cannot be done."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from mtlgrad_jax.demo import methods

FORMATS = (".png", ".pdf", ".svg")
DESCRIPTION = """\
Train one network on two tasks twice, once on the summed loss and once with a method of mtlgrad_jax, and
compare. The tasks are made from scikit-learn's handwritten digits: two digits overlap on one canvas, and a
shared trunk with two heads reads the left and the right one. Images are split into training and held-out
images first, pairs are made afterwards.

One jitted step takes the gradient of each loss with respect to all parameters (mtl.task_value_and_grad), and
optax.chain(method, optax.adam(...)) turns the stack of them into one update.

problems:
  parallel  the left and the right digit are two equal tasks (default method: {parallel})
  primary   the left digit is what counts; the right one is an auxiliary task, which the method does not
            follow but keeps from getting worse (default method: {primary})
  noisy     the primary task is both digits on many canvases with 40 % wrong labels, the auxiliary task both
            digits on a few canvases with right labels (default method: {noisy})
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
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = described.add_argument
    add("--problem", choices=list(methods.DEFAULTS), default="parallel", help="which two tasks (%(default)s)")
    add("--method", help=f"one of {', '.join(methods.choices())}; the problem's default if not given")
    add("--steps", type=_steps, default=1500, help="train steps of each run (%(default)s)")
    add("--seed", type=_seed, default=0, help="decides split, pairs, initial parameters and batches (%(default)s)")
    add("--out", type=Path, default=Path("out"), help="folder or .png, .pdf, .svg file for the figure (%(default)s)")
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
    path = out if out.suffix in FORMATS and not out.is_dir() else out / default_name
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
        described.exit(1, f'the demo needs {missing.name}, which is not installed: pip install "mtlgrad_jax[demo]"\n')
    return comparison


def _steps(text):
    return _whole_number(text, 1, 10**7)


def _seed(text):
    return _whole_number(text, 0, 2**31 - 1)


def _whole_number(text, lowest, highest):
    number = int(text) if text.strip().lstrip("+-").isdecimal() else None
    if number is None or not lowest <= number <= highest:
        raise argparse.ArgumentTypeError(f"expected a whole number from {lowest} to {highest}, got {text!r}")
    return number
