"""Sphinx's settings for `make site`. Nothing is fetched: no fonts, and MathJax is one of our files."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes

import ntklib

project = "The NTK course"
author = "The authors of the NTK course"
project_copyright = author
release = version = ntklib.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.mathjax", "sphinx.ext.viewcode", "sphinx_copybutton", "sphinxcontrib.bibtex"]
exclude_patterns = ["extra"]
default_role = "code"  # as in the docstrings: `x1` is code
nitpicky = True
nitpick_ignore: list[tuple[str, str]] = []  # types in signatures that are not ours are explained in types.rst
python_maximum_signature_line_length = 76
add_module_names = False
toc_object_entries = False
smartquotes = False  # code and equations stay as they were written
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_selector = "div:not(.output):not(.equation) > div.highlight > pre"

myst_enable_extensions = ["dollarmath"]
myst_dmath_double_inline = True
myst_update_mathjax = False  # its settings are in the file below
mathjax_path = "mathjax/tex-svg.js"
mathjax_config_path = "_static/mathjax/settings.js"
bibtex_bibfiles = ["papers.bib"]

html_theme = "furo"
html_theme_options = {  # what the dark theme does to figures, see ntklib.css
    "light_css_variables": {"plot-filter": "none", "picture-filter": "none"},
    "dark_css_variables": {
        "plot-filter": "invert(0.9) hue-rotate(180deg) brightness(1.1)",
        "picture-filter": "brightness(0.86)",
    },
}
html_title = project
html_static_path = ["_static"]
html_extra_path = ["extra"]
html_css_files = ["ntklib.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = html_show_sourcelink = False
html_use_index = True
html_show_copyright = False
templates_path = ["_templates"]
html_sidebars = {
    "**": [
        "sidebar/scroll-start.html",
        "sidebar/brand.html",
        "sidebar/search.html",
        "sidebar/navigation.html",
        "tools.html",
        "sidebar/scroll-end.html",
    ]
}
PAGES = {"playground.html": "Playground", "explorer.html": "Phase diagrams"}  # each stands by itself
html_context = {
    "alone": {name: PAGES[name] for name in PAGES if Path(__file__).with_name("extra").joinpath(name).exists()}
}


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("doctree-resolved", _equations)


def _equations(app: Any, doctree: nodes.document, name: str) -> None:
    r"""Equations reach MathJax as they were written, and in a line the sign after one stays beside it.

    Sphinx would put equations of several lines into `split`, which takes no \tag. A browser may break a line between an
    equation and the comma that follows.
    """
    for node in doctree.findall(nodes.math_block):
        text = node.astext().strip()
        node.children = [nodes.Text(rf"\[{text}\]")]
        node["no-wrap"] = True
    for node in list(doctree.findall(nodes.math)):
        line, place = node.parent, node.parent.index(node)
        after = line[place + 1] if place + 1 < len(line) else None
        if isinstance(after, nodes.Text) and (found := re.match(r"[-,.;:!?)\]’”'\"]+", after)):
            line[place + 1] = nodes.Text(after[found.end() :])
            line[place] = nodes.inline("", "", node, nodes.Text(found[0]), classes=["together"])
