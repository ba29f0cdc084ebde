"""The table of `bridge ops --generated`: the plugins in the cache, and those that were shipped."""

from collections.abc import Iterator, Sequence
from typing import Any

from bridge.base.text import columns, listing, size
from bridge.errors import UnknownNameError
from bridge.generate import folders


def rows(name: str | None = None) -> list[dict[str, Any]]:
    """A row for every plugin of every library, shipped ones first; size: of the library, in bytes.

    name: of an operator or a plugin, which alone is listed. UnknownNameError: there is none.
    """
    table = list(_rows())
    found = [row for row in table if name in (None, row["name"], row["operator"])]
    if name is not None and not found:
        known = sorted({row["operator"] for row in table})
        raise UnknownNameError(f"no plugin was generated from {name}; there are some of {listing(known, name)}")
    return found


def _rows() -> Iterator[dict[str, Any]]:
    return (
        {
            "name": f"{library.namespace}::{op['name']}",
            "operator": op["operator"],
            "targets": list(library.description["targets"]),
            "kernels": len(op["kernels"]),
            "size": library.library.stat().st_size,
            "folder": str(library.path),
        }
        for library in folders.whole()
        for op in library.ops
    )


def text(table: Sequence[dict[str, Any]]) -> str:
    """The table for reading."""
    if not table:
        return "no plugin was generated yet, as far as the cache knows"
    headings = ("plugin", "operator", "targets", "kernels", "library", "folder")
    cells = [
        (row["name"], row["operator"], " ".join(row["targets"]), row["kernels"], size(row["size"]), row["folder"])
        for row in table
    ]
    return columns([headings, *cells], indent=0, heading=True)
