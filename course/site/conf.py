"""Sphinx's settings for `make docs`. Nothing is fetched: no fonts, no scripts from elsewhere, equations in Unicode."""

import ntklib

project = "ntklib"
author = "The authors of the NTK course"
project_copyright = author
release = version = ntklib.__version__
language = "en"

extensions = ["sphinx.ext.viewcode", "sphinx_copybutton"]
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

html_theme = "furo"
html_title = "ntklib"
html_static_path = ["_static"]
html_css_files = ["ntklib.css"]
html_copy_source = html_show_sourcelink = False
html_use_index = True
html_show_copyright = False
