"""Sphinx builds the pages from here: `make docs`."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

project = "rdgeodiff"
author = "rdgeodiff contributors"
copyright = author
release = metadata.version(project)

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"{project} {release}"
html_show_sphinx = False
myst_heading_anchors = 3
# In docstrings `name` is a link where it names something on these pages, and code elsewhere.
default_role = "py:obj"
smartquotes_action = "D"  # dashes; "" stays an empty text
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88


def readme_as_index(app: Any, docname: str, source: list[str]) -> None:
    """The first page is the README with the table of contents behind it."""
    if docname != "index":
        return
    text = (HERE.parent / "README.md").read_text(encoding="utf-8")
    text = text.replace("](docs/", "](")
    # What lies elsewhere in the checkout can be downloaded from the page.
    text = re.sub(r"\]\((?!https?:|#)([\w./]+)\)", _from_here, text)
    source[0] = f"{text}\n{source[0]}"


def _from_here(link: re.Match[str]) -> str:
    path = link[1]
    # Code may look like a link, SMILES for instance.
    elsewhere = not (HERE / path).exists() and (HERE.parent / path).exists()
    return f"](path:../{path})" if elsewhere else link[0]


def readable_defaults(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, returns: Any
) -> tuple[str | None, Any] | None:
    """The fields of a dataclass that start empty: Sphinx cannot parse what Python prints there."""
    if what != "class" or not signature:
        return None
    return signature.replace("<factory>", "..."), returns


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", readme_as_index)
    app.connect("autodoc-process-signature", readable_defaults)
