"""Runs the code blocks of Markdown pages as a reader would, from top to bottom.

A comment right before a block changes how it is treated:

    <!-- not run: REASON -->           it does not run
    <!-- evaluated on the CPU -->      engines are evaluated on the CPU
    <!-- exit code: 3 -->              the exit code of the command in a shell block
    <!-- file: NAME -->                it is written to that file, in the folder where the page runs
    <!-- from: PATH -->                it is a part of that file, of the repository or of the folder where the page
                                       runs; PATH may contain "**"
    <!-- output -->                    it is what the previous block printed; "..." matches anything
    <!-- needs nvcc from here on -->   where there is none, neither it nor what follows runs, and the test says so

The Python blocks of a page share their names. In shell blocks only `bridge` commands run. A block that neither runs nor
is compared must say why, unless its language is "text".
"""

import contextlib
import fnmatch
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import oracle

import bridge
from bridge import cli
from bridge.errors import LibraryError
from bridge.toolchain import tools

SHELL = ("bash", "console", "sh")
_FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^(?P<ticks>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=ticks)[ ]*$",
    re.MULTILINE | re.DOTALL,
)


class BlockError(AssertionError):
    """A block does not behave as its page says."""


@dataclass(frozen=True)
class Block:
    """A fenced block. line: where its text starts in the page. note: the comment before it."""

    page: Path
    line: int
    language: str
    note: str
    text: str

    @property
    def location(self) -> str:
        """Its location, for messages."""
        return f"{self.page.name}:{self.line}"

    def note_for(self, key: str) -> str | None:
        """The note's value for a key, or None."""
        return self.note.partition(":")[2].strip() if self.note.partition(":")[0] == key else None


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page, without directives of the documentation generator."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        if not match["language"].startswith("{"):
            line = text.count("\n", 0, match.start("text")) + 1
            yield Block(page, line, match["language"], match["note"] or "", match["text"])


def check_page(page: Path, root: Path) -> str | None:
    """Runs the blocks of a page in the current folder, which is empty. BlockError: the first that fails, and why.

    Args:
        root: the repository, whose models folder is linked here.
    Returns:
        What is not run here and why, or None: all is.
    """
    Path("models").symlink_to(root / "models")
    names: dict[str, Any] = {"__name__": "__page__"}
    printed = ""
    for block in blocks(page):
        if block.note == "needs nvcc from here on" and (problem := _compiler_problem()) is not None:
            return f"{block.location} and what follows is not run: {problem}"
        if block.note == "output":
            _compare(block, printed)
        elif (path := block.note_for("from")) is not None:
            if not any(block.text.strip() in file.read_text() for file in (*root.glob(path), *Path().glob(path))):
                raise BlockError(f"{block.location}: {path} has no such lines")
        elif (path := block.note_for("file")) is not None:
            Path(path).write_text(block.text)
        elif (reason := block.note_for("not run")) is not None:
            if len(reason.split()) < 2:
                raise BlockError(f"{block.location}: it does not say why it is not run")
        elif block.language == "python":
            printed = _run_python(block, names)
        elif block.language in SHELL:
            printed = _run_shell(block)
        elif block.language != "text":
            raise BlockError(f"{block.location}: {block.language or 'no language'}: is not run, and no note says why")
    return None


def _compiler_problem() -> str | None:
    try:
        tools.nvcc()
    except LibraryError as error:
        return str(error)
    return None


def _run_python(block: Block, names: dict[str, Any]) -> str:
    """Runs it with the line numbers of its page, so that errors show them. Returns its output."""
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    with (
        _captured_output(block) as output,
        _evaluated_on_cpu() if block.note == "evaluated on the CPU" else contextlib.nullcontext(),
    ):
        exec(code, names)
    return output.getvalue()


@contextlib.contextmanager
def _evaluated_on_cpu() -> Iterator[None]:
    """The context in which engines are built for sm86 by default, and evaluated on the CPU."""
    defaults = bridge.Config.__init__.__defaults__
    with oracle.interpreted(), mock.patch.object(bridge.Config.__init__, "__defaults__", ("sm86", *defaults[1:])):
        yield


def _run_shell(block: Block) -> str:
    with _captured_output(block) as output:
        for command in block.text.replace("\\\n", "").splitlines():
            words = shlex.split(command, comments=True)
            if words and words[0] != "bridge":
                raise BlockError(f"{words[0]} is not run, and no note says why")
            expected = int(block.note_for("exit code") or 0)
            if words and (code := cli.main(words[1:])) != expected:
                raise BlockError(f"{command}: exit code {code}, expected {expected}")
    return output.getvalue()


@contextlib.contextmanager
def _captured_output(block: Block) -> Iterator[io.StringIO]:
    """Captures stdout and stderr. BlockError: the block raised; the message has its output."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            yield output
    except (Exception, SystemExit) as error:
        raise BlockError(f"{block.location}: {type(error).__name__}: {error}\n{output.getvalue()}") from error


def _compare(block: Block, printed: str) -> None:
    pattern = re.sub(r"([\[?*])", r"[\1]", block.text.strip()).replace("...", "*")
    if not fnmatch.fnmatchcase(_stripped(printed), _stripped(pattern)):
        raise BlockError(f"{block.location}: expected\n{block.text}\nbut the block before it printed\n{printed}")


def _stripped(text: str) -> str:
    """The text without trailing and surrounding blanks."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
