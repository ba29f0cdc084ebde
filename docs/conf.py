"""Settings of Sphinx, which `make docs` runs: pages in Markdown, and an API reference from docstrings."""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

sys.path.insert(0, str(Path(__file__).parents[1]))

import bridge

project = "bridge"
version = release = bridge.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["measurements"]
myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_use_rtype = False
html_theme = "furo"
html_title = f"bridge {version}"


def setup(app: Sphinx) -> None:
    """Signatures are short; documentation is built where no TensorRT is."""
    app.connect("autodoc-process-signature", _shorten)
    app.connect("build-finished", _check_imports)


def _shorten(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None):
    """Without the dtypes that an op's annotations hold, which its documentation tells."""
    return tuple(
        text and re.sub(r"[~\w.]*Annotated\[([~\w.]*Tensor), [^\]]*\]", r"\1", text) for text in (signature, returns)
    )


def _check_imports(app: Sphinx, error: Exception | None) -> None:
    imported = {"tensorrt", "tensorrt_rtx", "torch_tensorrt"} & sys.modules.keys()
    if imported and error is None:
        raise ExtensionError(f"building the documentation imported {', '.join(sorted(imported))}")
