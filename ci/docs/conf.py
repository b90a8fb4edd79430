# SPDX-License-Identifier: Apache-2.0
"""Configuration of Sphinx; the extension is ci/docs/extension.py."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from kvmipa import __version__

project = "kvmipa"
author = "the kvmipa authors"
project_copyright = "the kvmipa authors; Apache-2.0"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "ci.docs.extension"]
exclude_patterns = ["**/__pycache__"]
nitpicky = True

# Two modules may have a class of the same name: a link goes to the one that is found.
suppress_warnings = ["ref.python"]

autodoc_default_options = {"members": True, "undoc-members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"kvmipa {__version__}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
# Text in a code block is as it is typed: two hyphens are two hyphens.
smartquotes = False
