"""The site: python -m sphinx -W docs site (`pip install '.[docs]'`); nothing is fetched, and what is linked to is checked.

`-t online` also links to the reference of PyTorch and torchvision, whose lists of names are then read from their sites.
"""

import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

project = "foveal"
author = "The foveal authors"
project_copyright = "The foveal authors, Apache-2.0"
release = version = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "formulas",
    "made_pages",
]
exclude_patterns = ["_ext", "results"]
suppress_warnings = ["config.cache"]
if tags.has("online"):  # noqa: F821 - Sphinx puts it there
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
        "torchvision": ("https://docs.pytorch.org/vision/stable/", None),
        "python": ("https://docs.python.org/3/", None),
    }

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 90
default_role = "code"
smartquotes = False

html_theme = "furo"
html_title = f"foveal {version}"
html_static_path = ["_static"]
html_extra_path = ["../src/foveal/analysis/explorer.html"]  # beside docs/explore.md, which shows it
html_css_files = ["foveal.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = "$ "
