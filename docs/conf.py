"""The documentation as a site: ``python -m sphinx -W -n -b html docs out/docs``.

Sphinx reads the Markdown beside this file as it is. Warnings are errors: a page in no table of
contents, a link that leads nowhere, a heading that skips a level.
"""

from pathlib import Path
from xml.etree import ElementTree

MANIFEST = ElementTree.parse(Path(__file__).resolve().parents[1] / "package.xml").getroot()

project = "dnls_ros"
author = "dnls_ros maintainers"
release = version = str(MANIFEST.findtext("version"))

extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["conf.py"]

html_theme = "furo"
html_title = f"dnls_ros {version}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False
html_show_sphinx = False
