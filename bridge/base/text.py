"""Text output: tables, sizes, JSON, and escaping of control characters in names from files."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from bridge.base import terminal

_WIDEST = 200  # cell width to which a column is aligned
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


_NO_STYLES: Mapping[str, str] = MappingProxyType({})


def columns(
    rows: Iterable[Sequence[object]], indent: int = 2, heading: bool = False, styles: Mapping[str, str] = _NO_STYLES
) -> str:
    """Rows as lines with aligned columns; the last cell of a row is not padded.

    A cell with control characters, which a name in an engine file may have, is shown as a Python string. A command
    that prints to a terminal gets lines of its width. heading: whether the first row is one. styles: of cells with
    that text; both show on a terminal alone.
    """
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    if (laid_out := terminal.table(cells, indent, heading, styles)) is not None:
        return laid_out
    widths = [0] * max((len(row) for row in cells), default=0)
    for row in cells:
        for index, cell in enumerate(row[:-1]):
            widths[index] = max(widths[index], min(len(cell), _WIDEST))
    return "\n".join((" " * indent + _line(row, widths)).rstrip() for row in cells)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths[: len(row) - 1], 0], strict=True))


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown, without a line break at its end."""
    return "\n".join(_markdown_row(row) for row in (headings, ["---"] * len(headings), *rows))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def shape_text(extents: Sequence[int]) -> str:
    """Extents as text, "?" for one that depends on the inputs: "[?, 3, 64]"."""
    return "[" + ", ".join("?" if extent == -1 else str(extent) for extent in extents) + "]"


def printable(text: str) -> str:
    """The text; as a Python string if it has control characters, which a terminal would execute."""
    return text if text.isprintable() else repr(text)


def printable_lines(text: str) -> str:
    """The text with its line breaks; other control characters are escaped."""
    return re.sub(r"[^\n -~]", _escaped, text)


def as_json(value: object) -> str:
    """JSON without control characters, safe on a terminal. ValueError: it holds infinities or NaN."""
    encoded = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return printable_lines(encoded)


def _escaped(match: re.Match[str]) -> str:
    letter = match[0]
    return letter if letter.isprintable() else json.dumps(letter)[1:-1]


def did_you_mean(known: Iterable[str], wanted: str) -> str:
    """The end of an error about a name that does not exist: ". Did you mean 'relu'?"; empty where none is near."""
    near = difflib.get_close_matches(wanted, list(known), n=1)
    return f". Did you mean {near[0]!r}?" if near else ""


def listing(known: Iterable[str], wanted: str, separator: str = ", ") -> str:
    """The same after all names that exist: "relu, rope. Did you mean 'rope'?"."""
    names = list(known)
    return (separator.join(names) or "none") + did_you_mean(names, wanted)


def size(count: int) -> str:
    """A number of bytes as text: "812 bytes", "1.2 MB" (10⁶)."""
    if count < 1000:
        return f"{count} bytes"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.95 or unit == "TB":
            break
    return f"{value:.1f} {unit}"


def parse_size(text: str, what: str) -> int:
    """Bytes of "20GiB", "500 MB" or "1000000". ValueError, which names `what`: it is no size."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS or not float(match[1]):
        raise ValueError(f'{what} is {text!r}; expected a size such as "20GiB", "500MB" or a number of bytes')
    return int(float(match[1]) * _UNITS[match[2].lower()])
