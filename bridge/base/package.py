"""This package: its version and its folders."""

import sys
from pathlib import Path

__version__ = "0.1.0"
DISTRIBUTION = "bridge-tensorrt"
"""The name that pip knows the package by."""


def folders() -> list[Path]:
    """The folders of the package. An editable install has two: sources and native libraries."""
    return [Path(entry) for entry in sys.modules["bridge"].__path__]
