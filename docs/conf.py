"""Sphinx configuration. `python docs/build.py` copies this folder, adds the generated pages, and builds the copy."""

from __future__ import annotations

import inspect
import re
import tomllib
import typing
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

from vlmtrace.core import arguments

#: By the name of a number with a meaning, such as Count: the type that it is.
PLAIN = {
    name: typing.get_args(meaning)[0].__name__
    for name, meaning in vars(arguments).items()
    if typing.get_origin(meaning) is typing.Annotated
}

# The build runs on a copy in docs/_build/source.
ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = "vlmtrace"
author = "the vlmtrace authors"
copyright = author
release = version = PROJECT["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

# Pages ------------------------------------------------------------------

source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_block"]
myst_heading_anchors = 3
#: Single backticks in a docstring: a link where the name is documented, else code.
default_role = "py:obj"

# Notebooks: rendered as they were executed, without scripts from elsewhere.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
nb_merge_streams = True
#: Indented blocks are mostly commands; Python is marked as such.
highlight_language = "none"

# API -------------------------------------------------------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
napoleon_use_param = True
napoleon_preprocess_types = False
nitpicky = True
nitpick_ignore_regex = [
    # Names in single backticks that are no public name: parameters, columns, private helpers.
    ("py:obj", r".*"),
    # Types of other libraries, whose documentation is not at hand offline, and private ones in signatures.
    ("py:(class|exc)", r".*"),
]

# HTML ------------------------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = f"vlmtrace {release}"
html_static_path = ["_static"]
html_css_files = ["vlmtrace.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True}


def mathml(tex: str, as_block: bool) -> str:
    """LaTeX as MathML, which browsers draw by themselves: no script, no fonts from elsewhere."""
    tex = re.sub(r"\\big(?![a-zA-Z])", "", tex)  # unknown to the converter, and only a size
    tex = re.sub(r"\\log (?=[a-z])", r"\\log\\, ", tex)
    return tex2mathml(tex, as_block=as_block)


def visit_inline_math(writer: object, node: nodes.math) -> None:
    """Write `$…$`."""
    writer.body.append(mathml(node.astext(), as_block=False))  # type: ignore[attr-defined]
    raise nodes.SkipNode


def visit_display_math(writer: object, node: nodes.math_block) -> None:
    """Write `$$…$$`."""
    writer.body.append(f'<div class="math">{mathml(node.astext(), as_block=True)}</div>\n')  # type: ignore[attr-defined]
    raise nodes.SkipNode


def as_meant(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Keep docstrings from being read as what they do not mean.

    A property's first line, such as "rows that were tried: head, size", is no type with a description. And the names of
    columns that end in an underscore, as in "clean_, image_ and text_", are no links; nor is "id@revision" an address.
    """
    if what in ("attribute", "data", "property"):
        lines.insert(0, "")
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            line = re.sub(r"(?<![`\w])([A-Za-z]\w*)_(?![\w`])", r"\1\\_", line)
            lines[i] = re.sub(r"(?<=[a-z])@(?=[a-z])", r"\\@", line)


def plain_types(app: Sphinx, value: object, is_method: bool) -> None:
    """Show `n: int` for a parameter that is checked as `n: Count`: its description says the rest."""
    annotations = getattr(inspect.unwrap(value), "__annotations__", {})  # type: ignore[arg-type]
    for name, text in annotations.items():
        if isinstance(text, str):
            annotations[name] = re.sub(r"\b(" + "|".join(PLAIN) + r")\b", lambda found: PLAIN[found[0]], text)


def setup(app: Sphinx) -> None:
    """Register the renderer of formulas, and what signatures and docstrings go through."""
    app.connect("autodoc-before-process-signature", plain_types)
    app.connect("autodoc-process-docstring", as_meant, priority=100)
    app.add_html_math_renderer("mathml", (visit_inline_math, None), (visit_display_math, None))
