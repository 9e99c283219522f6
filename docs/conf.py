"""How Sphinx builds these pages: ``sphinx-build -W docs docs/_build`` (extra ``docs``)."""

from __future__ import annotations

from pathlib import Path

project = "backendai_jupyter"
author = "backendai_jupyter developers"
_package = (Path(__file__).parents[1] / "backendai_jupyter/__init__.py").read_text()
version = release = _package.partition('__version__ = "')[2].partition('"')[0]

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = project
