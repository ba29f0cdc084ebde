"""bridge's own library beside the plugin libraries: the one that registers them where a host only loads files."""

from pathlib import Path

from bridge.core import libraries
from bridge.errors import LibraryError

AUTOLOAD = "libbridge_autoload.so"
"""When it is loaded, it registers the plugin libraries in its folder; csrc/hosts/autoload/autoload.cpp."""


def autoload_library() -> Path:
    """Its path. LibraryError: it is not there."""
    folders = libraries.library("bridge").directories()
    found = next((folder / AUTOLOAD for folder in folders if (folder / AUTOLOAD).is_file()), None)
    if found is None:
        raise LibraryError(f"{AUTOLOAD} is not in {', '.join(map(str, folders))}. {libraries.library('bridge').remedy}")
    return found.resolve()
