"""Text tables for the command line."""

from collections.abc import Iterable, Sequence


def columns(rows: Iterable[Sequence[object]], indent: int = 2) -> str:
    """Rows as lines, their cells aligned; the last cell of a row is as long as it likes.

    A cell that holds control characters, as a name in an engine file may, is shown as a Python string.
    """
    cells = [[_printable(str(cell)) for cell in row] for row in rows]
    widths = [0] * max((len(row) for row in cells), default=0)
    for row in cells:
        for index, cell in enumerate(row[:-1]):
            widths[index] = max(widths[index], len(cell))
    return "\n".join((" " * indent + _line(row, widths)).rstrip() for row in cells)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths[: len(row) - 1], 0], strict=True))


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)


def size(count: int) -> str:
    """A number of bytes for people: "812 bytes", "1.2 MB" (of 10⁶)."""
    if count < 1000:
        return f"{count} bytes"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.95 or unit == "TB":
            break
    return f"{value:.1f} {unit}"
