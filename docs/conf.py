"""The site's settings. It is built without a network: python -m sphinx -W --keep-going -b html docs OUT."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "laser-fl"
author = "laser-fl"
html_title = "laser-fl"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "docstrings", "generated", "offline"]
exclude_patterns = ["_ext", "_build", "reference/generated", "**.ipynb_checkpoints", "jupyter_execute"]
highlight_language = "none"
suppress_warnings = ["config.cache"]  # a function among the settings

# Links: those within the site are checked, anchors of headings included.
nitpicky = True
nitpick_ignore_regex = [
    # Annotations name types of other packages, and of this one's inner parts, which have no page.
    (r"py:(class|obj|data)", r".*"),
    (r"py:exc", r"(?!laser_fl).*"),
]
myst_heading_anchors = 4
# Without dollarmath: formulas are written in letters, since MathJax would be fetched from another host.
myst_enable_extensions = ["colon_fence", "deflist", "attrs_block", "attrs_inline"]
myst_links_external_new_tab = False

# Notebooks are executed, once for each of their versions; an error in one is an error of the build.
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autoclass_content = "both"
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
