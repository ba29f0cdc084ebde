"""Tables and words on a terminal, laid out and coloured by rich; elsewhere nothing here applies.

rich keeps to NO_COLOR, to TERM and to the terminal's width.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_NARROWEST = 8  # letters of a column; below that a table is longer than its lines, broken by the terminal
_MOST_ROWS = 500  # more would take seconds
HEADING = "bold"

_console: "Console | None" = None


@contextlib.contextmanager
def shown_on(stream: Any) -> Iterator[None]:
    """Within it, tables are laid out for that stream, if it is a terminal. For commands alone: it is global."""
    global _console
    before = _console
    _console = console_of(stream)
    try:
        yield
    finally:
        _console = before


def table(rows: Sequence[Sequence[str]], indent: int, heading: bool, styles: Mapping[str, str]) -> str | None:
    """The rows as a table of the terminal's width, with cells folded that do not fit; None where there is no terminal.

    heading: whether the first row is one. styles: of cells with that text.
    """
    count = max(map(len, rows), default=0)
    if _console is None or not count or len(rows) > _MOST_ROWS or _console.width < indent + count * _NARROWEST:
        return None
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for _ in range(count):
        grid.add_column(overflow="fold")
    for number, row in enumerate(rows):
        grid.add_row(
            *(Text(cell, styles.get(cell, "")) for cell in row), style=HEADING if heading and number == 0 else None
        )
    return _rendered(_console, Padding(grid, (0, 0, 0, indent), expand=False))


def styled(text: str, style: str, stream: Any) -> str:
    """The text in that style, if the stream is a terminal."""
    console = console_of(stream)
    if console is None:
        return text
    from rich.text import Text

    return _rendered(console, Text(text, style, end=""))


def console_of(stream: TextIO | None) -> "Console | None":
    """rich's console of a stream; None where the stream is no terminal."""
    if stream is None or not hasattr(stream, "isatty") or stream.closed or not stream.isatty():
        return None
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def _rendered(console: "Console", what: Any) -> str:
    with console.capture() as captured:
        console.print(what, soft_wrap=False)
    return captured.get().rstrip("\n")
