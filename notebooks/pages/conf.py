"""Configuration of Sphinx for `python notebooks/pages`."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "mtlgrad_jax"
version = release = importlib.metadata.version("mtlgrad_jax")
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "rendering"]
root_doc = "index"

nb_execution_mode = "off"  # shown as they are stored; the tests execute them
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3

default_role = "literal"  # docstrings mark code with single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "mtlgrad_jax"
html_static_path = [str(Path(__file__).parent / "static")]
html_css_files = ["pages.css"]
html_show_copyright = False
