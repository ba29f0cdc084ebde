"""This package: its version, and the folders that it lies in."""

import sys
from pathlib import Path

__version__ = "0.1.0"


def folders() -> list[Path]:
    """Two where it is installed editable: that of the sources, and that of the native libraries."""
    return [Path(entry) for entry in sys.modules["bridge"].__path__]
