"""Code blocks of Markdown pages: found, and run as a reader would, from top to bottom.

A comment right before a block says what is special about it:

    <!-- not run: REASON -->           it does not run
    <!-- evaluated on the CPU -->      engines are evaluated on the CPU, for a GPU that is not here
    <!-- exit code: 3 -->              of the command in a shell block
    <!-- file: NAME -->                it is written to that file, in the folder where the page runs
    <!-- from: PATH -->                it stands so in that file of the repository, whose folders may be "**"
    <!-- output -->                    it is what the block before it printed; "..." stands for anything

Python blocks of one page share their names. Of shell blocks `bridge` commands run. What neither runs nor is compared
must say why, unless its language is "text".
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

SHELL = ("bash", "console", "sh")
_FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^(?P<ticks>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=ticks)[ ]*$",
    re.MULTILINE | re.DOTALL,
)


class BlockError(AssertionError):
    """A block of a page does not do what the page says."""


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of the page, on which its text begins. note: the comment before it."""

    page: Path
    line: int
    language: str
    note: str
    text: str

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.page.name}:{self.line}"

    def noted(self, key: str) -> str | None:
        """What the note says after that key."""
        return self.note.partition(":")[2].strip() if self.note.partition(":")[0] == key else None


def blocks(page: Path) -> Iterator[Block]:
    """Every fenced block of a page, but for directives of the documentation's generator."""
    source = page.read_text()
    for match in _FENCE.finditer(source):
        if not match["language"].startswith("{"):
            line = source.count("\n", 0, match.start("text")) + 1
            yield Block(page, line, match["language"], match["note"] or "", match["text"])


def check_page(page: Path, root: Path) -> None:
    """Runs the blocks of a page in the current folder, which is empty. BlockError: the first that fails, and why.

    root: the repository. Its models are where a page looks for them.
    """
    Path("models").symlink_to(root / "models")
    names: dict[str, Any] = {"__name__": "__page__"}
    printed = ""
    for block in blocks(page):
        if block.note == "output":
            _compare(block, printed)
        elif (path := block.noted("from")) is not None:
            if not any(block.text.strip() in file.read_text() for file in root.glob(path)):
                raise BlockError(f"{block.where}: {path} has no such lines")
        elif (path := block.noted("file")) is not None:
            Path(path).write_text(block.text)
        elif (reason := block.noted("not run")) is not None:
            if len(reason.split()) < 2:
                raise BlockError(f"{block.where}: it does not say why it is not run")
        elif block.language == "python":
            printed = _run_python(block, names)
        elif block.language in SHELL:
            printed = _run_shell(block)
        elif block.language != "text":
            raise BlockError(f"{block.where}: {block.language or 'no language'}: neither run nor said why not")


def _run_python(block: Block, names: dict[str, Any]) -> str:
    """Runs it with the line numbers of its page, so that errors show them. Returns what it printed."""
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    with _said(block) as said, _evaluated() if block.note == "evaluated on the CPU" else contextlib.nullcontext():
        exec(code, names)
    return said.getvalue()


@contextlib.contextmanager
def _evaluated() -> Iterator[None]:
    """As if there was a GPU: engines are for sm86 where nothing is said of the target, and are evaluated on the CPU."""
    defaults = bridge.Config.__init__.__defaults__
    with oracle.interpreted(), mock.patch.object(bridge.Config.__init__, "__defaults__", ("sm86", *defaults[1:])):
        yield


def _run_shell(block: Block) -> str:
    with _said(block) as said:
        for command in block.text.replace("\\\n", "").splitlines():
            words = shlex.split(command, comments=True)
            if words and words[0] != "bridge":
                raise BlockError(f"{words[0]} is not run, and it is not said why")
            expected = int(block.noted("exit code") or 0)
            if words and (code := cli.main(words[1:])) != expected:
                raise BlockError(f"{command}: exit code {code}, expected {expected}")
    return said.getvalue()


@contextlib.contextmanager
def _said(block: Block) -> Iterator[io.StringIO]:
    """What is written to stdout and stderr meanwhile. BlockError: the block raised, with what it had said."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield said
    except (Exception, SystemExit) as error:
        raise BlockError(f"{block.where}: {type(error).__name__}: {error}\n{said.getvalue()}") from error


def _compare(block: Block, printed: str) -> None:
    pattern = re.sub(r"([\[?*])", r"[\1]", block.text.strip()).replace("...", "*")
    if not fnmatch.fnmatchcase(_squeezed(printed), _squeezed(pattern)):
        raise BlockError(f"{block.where}: expected\n{block.text}\nbut the block before it printed\n{printed}")


def _squeezed(text: str) -> str:
    """Without blanks at the ends of lines, and around them."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())
