"""Build the pages of the documentation: `python notebooks/pages`, with warnings as errors, into `build/pages/html`.

Everything that is shown is first laid out below `build/pages/source` as it lies in the repository, so that links
between files work in both; the reference is written there too, from the docstrings.
"""

import re
import shutil
import sys
from pathlib import Path

from reference import pages
from sphinx.cmd.build import main

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
BUILT = REPOSITORY / "build/pages"
SOURCE, HTML = BUILT / "source", BUILT / "html"
SHOWN = [
    "*.md",
    "notebooks/*.md",
    "notebooks/examples/*.md",
    "notebooks/*.ipynb",
    "benchmarks/*.md",
    "tests/*.md",
    "benchmarks/results/*.png",
]
LINKED = ["benchmarks/**/*.py", "tests/*.py"]  # to be downloaded


def lay_out() -> None:
    """Copy what is shown, and write the reference and the pages that tie all together."""
    shutil.rmtree(BUILT, ignore_errors=True)
    for path in (path for pattern in SHOWN + LINKED for path in REPOSITORY.glob(pattern)):
        target = SOURCE / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    readme = SOURCE / "README.md"
    text = readme.read_text().replace("](mtlgrad_jax/methods/README.md)", "](reference/methods.md)")
    readme.write_text(re.sub(r"\]\((notebooks/examples/\w+)\.py\)", r"](\1.md)", text))
    recipes = SOURCE / "notebooks/examples/README.md"
    recipes.write_text(re.sub(r"\]\((\w+)\.py\)", r"](\1.md)", recipes.read_text()))
    for example in REPOSITORY.glob("notebooks/examples/*.py"):
        target = (SOURCE / example.relative_to(REPOSITORY)).with_suffix(".md")
        target.write_text(f"# {example.stem}\n\n```python\n{example.read_text()}```\n")
    for page, text in pages().items():
        target = SOURCE / f"reference/{page}.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (SOURCE / "index.md").write_text((HERE / "index.md").read_text())


if __name__ == "__main__":
    lay_out()
    failed = main(
        ["--fail-on-warning", "--keep-going", "--quiet", "-c", str(HERE), *sys.argv[1:], str(SOURCE), str(HTML)]
    )
    sys.exit(failed or print(f"open {HTML / 'index.html'}"))
