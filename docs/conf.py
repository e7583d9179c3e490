"""Sphinx settings of the site that `make docs` builds. scripts/docs.py writes the pages."""

from pathlib import Path

from docutils.nodes import SkipNode, math, math_block
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from hetacumn import __version__

project = "HetACUMN"
author = "the HetACUMN-open developers"
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]

html_theme = "furo"
html_title = "HetACUMN"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_search_scorer = str(Path(__file__).with_name("search_scorer.js"))

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
suppress_warnings = ["mystnb.unknown_mime_type"]  # widgets need a running kernel

nb_execution_mode = "off"  # DVC stages execute the notebooks
nb_output_stderr = "remove"
nb_merge_streams = True
nb_ipywidgets_js: dict = {}  # the default loads scripts from another host

default_role = "literal"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "ignore-module-all": True}  # each name on the page of its module alone
napoleon_numpy_docstring = False


def _inline(writer: HTML5Translator, node: math) -> None:
    writer.body.append(convert(node.astext()))
    raise SkipNode


def _displayed(writer: HTML5Translator, node: math_block) -> None:
    writer.body.append(f"<div>{convert(node.astext(), display='block')}</div>")
    raise SkipNode


def setup(app: Sphinx) -> None:
    """Render formulas as MathML, which browsers display without scripts."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_displayed, None))
