"""Sphinx configuration; `make docs` builds the pages."""

project = "gosched"
author = "the gosched authors"
extensions = ["myst_parser"]
exclude_patterns = []
myst_heading_anchors = 3
html_theme = "alabaster"
html_theme_options = {"description": "Goroutines and an HTTP server for CPython"}
