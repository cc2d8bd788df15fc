"""How docstrings become pages: fields with their shapes, formulas on a line of their own, names as links."""

import ast
import inspect
import re
import textwrap

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

SECTION = re.compile(r"(Args|Returns|Raises|Example|References):$")
RELATION = re.compile(r"[=∈←~∝]|^(min|max|score)")
MARKUP = re.compile(r"([*_`])")


def show_formulas(app, kind, name, value, options, lines):
    """Mark the formulas above the sections of a docstring: paragraphs with a relation and without a full stop."""
    end = next((index for index, line in enumerate(lines) if SECTION.match(line)), len(lines))
    paragraphs = "\n".join(lines[:end]).split("\n\n")
    is_formula = lambda text: RELATION.search(text) and not text.rstrip().endswith((".", ":")) and ">>>" not in text
    shown = [_formula(text) if index and is_formula(text) else text for index, text in enumerate(paragraphs)]
    lines[:end] = "\n\n".join(shown).split("\n")


def _formula(text):
    lines = [MARKUP.sub(r"\\\1", line) for line in text.strip().splitlines()]
    return ".. container:: formula\n\n" + "\n".join(f"   | {line}" for line in lines) + "\n"


def keep_bars(app, kind, name, value, options, lines):
    """Let |x| stand for a length: reStructuredText reads it as a substitution."""
    for index, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...", "|")):
            parts = line.split("`")
            lines[index] = "`".join(
                part if number % 2 else part.replace("|", r"\|") for number, part in enumerate(parts)
            )


def keep_returns_whole(app, kind, name, value, options, lines):
    """Write `Returns:` as one field: Napoleon takes what stands before a colon there for a type."""
    if "Returns:" in lines:
        start = lines.index("Returns:")
        end = next((i for i in range(start + 1, len(lines)) if SECTION.match(lines[i])), len(lines))
        body = textwrap.dedent("\n".join(lines[start + 1 : end])).strip().splitlines()
        lines[start:end] = [":returns: " + body[0], *("   " + line if line else "" for line in body[1:]), ""]


def show_fields(app, kind, name, value, options, lines):
    """Show the fields of a tuple, a data class or a protocol as they are written, with the shapes behind them."""
    fields = _fields(value) if kind == "class" else []
    if fields:
        lines += ["", ".. code-block:: python", "", *("   " + line.strip() for line in fields), ""]


def _fields(value):
    is_record = (
        hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__") or getattr(value, "_is_protocol", False)
    )
    written = inspect.getsource(value).splitlines() if is_record else []
    return [line for line in written if re.match(r"    (\w+: |def \w+\(.*\.\.\.)", line)]


def skip_fields(app, kind, name, value, skip, options):
    """Leave out the fields that `show_fields` shows."""
    return True if type(value).__name__ == "_tuplegetter" else None


def write_signature(app, kind, name, value, options, signature, returns):
    """Write a signature as its source does: with the names of types, which say more than what they stand for."""
    if kind == "class" and _fields(value):
        return "", None
    function = inspect.unwrap(value)
    if kind not in ("function", "method") or not inspect.isfunction(function):
        return None
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(node, ast.FunctionDef):
        return None
    if kind == "method":
        node.args.args = node.args.args[1:]
    return f"({ast.unparse(node.args)})", ast.unparse(node.returns) if node.returns else None


def link_types(app, env, node, content):
    """Find the types of signatures where they are defined."""
    name = f"mtlgrad_jax.typing.{node.get('reftarget')}"
    entry = env.domains.python_domain.objects.get(name)
    return entry and make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content)


class LinkNames(SphinxPostTransform):
    """Make a link of every piece of code that is a public name: `mtl.mgda`, `weightings.mgda(gram)`, `aggregate`."""

    default_priority = 100

    def run(self, **kwargs):
        """Look every piece of code up, as seen from the function that it stands in."""
        objects = self.env.domains.python_domain.objects
        for node in list(self.document.findall(nodes.literal)):
            if isinstance(node.parent, nodes.reference):
                continue
            name = re.sub(r"\(.*\)$", "", node.astext()).removeprefix("mtl.")
            for module in ("mtlgrad_jax", *self._around(node), "mtlgrad_jax.typing"):
                entry = objects.get(f"{module}.{name}")
                if entry is not None:
                    link = make_refnode(
                        self.app.builder, self.env.docname, entry.docname, entry.node_id, node.deepcopy()
                    )
                    node.replace_self(link)
                    break

    def _around(self, node):
        while node.parent is not None and node.tagname != "desc":
            node = node.parent
        page = self.env.docname.removeprefix("reference/").replace("/", ".")
        return [node[0].get("module", "") if node.tagname == "desc" else "", f"mtlgrad_jax.{page}"]


def setup(app: Sphinx):
    """Connect all of it."""
    app.connect("autodoc-process-docstring", keep_bars, priority=99)
    app.connect("autodoc-process-docstring", show_formulas, priority=100)
    app.connect("autodoc-process-docstring", keep_returns_whole, priority=101)
    app.connect("autodoc-process-docstring", show_fields, priority=900)
    app.connect("autodoc-process-signature", write_signature)
    app.connect("missing-reference", link_types)
    app.connect("autodoc-skip-member", skip_fields)
    app.add_post_transform(LinkNames)
    return {"parallel_read_safe": True}
