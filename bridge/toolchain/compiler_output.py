"""What CMake, nvcc, gcc and the linker wrote, as the lines that a kernel's author needs.

A message that a header of bridge raises is reported at the author's line, which the notes after it name.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

_ERRORS = (
    re.compile(
        r"(?P<file>[^\s(:][^(:]*)\((?P<line>\d+)\): (?:fatal |catastrophic )?error(?: #\S+)?: (?P<text>.*)"
    ),  # nvcc
    re.compile(r"(?P<file>[^\s:][^:]*):(?P<line>\d+):(?:\d+:)? (?:fatal )?error: (?P<text>.*)"),  # gcc
    re.compile(r"(?P<file>)(?P<line>)(?P<text>(?:ptxas|nvcc|nvlink) (?:fatal|error)\s*: .*)"),
    re.compile(r"(?P<file>)(?P<line>)(?:.*: )?(?P<text>undefined reference to .*)"),
    re.compile(r"(?P<file>)(?P<line>)(?:.*: )?(?P<text>multiple definition of [^;]*).*"),
)
# Where a template is used, from the inside out: nvcc says so after a message, gcc before it.
_NOTE_AFTER = re.compile(r"at line (?P<line>\d+) of \"?(?P<file>[^\"\s]+)")
_NOTE_BEFORE = re.compile(r"(?P<file>[^\s:]+):(?P<line>\d+):(?:\d+:)?\s+required from.*")
_ASSERTION = re.compile(r"static assertion failed(?: with|:) \"?(.*?)\"?")
_CMAKE = re.compile(r"CMake Error.*:\n+((?:  .*\n|\n)+)")
_ARGUMENTS = re.compile(r"\s*argument types are: .*")

# What often is wrong, by what is written of it.
HINTS = (
    (r"does not override|overriding", "signatures of `shapes`, `run` and the others stand in bridge/core/op.h"),
    (
        r"(torch|ATen|c10)/\S+\"?(: No such file| *$)|source file \"(torch|ATen|c10)/",
        "ops and kernels see pointers, sizes and a stream: leave torch's headers out",
    ),
    (
        r"(cannot open source file|No such file)",
        "bridge's headers are <bridge/core/op.h> and the like; name folders of your own after INCLUDE_DIRECTORIES",
    ),
    (r"undefined reference", "the file that defines it is not among the SOURCES of bridge_add_ops, or no file does"),
    (r"multiple definition", "a function in a header is `inline`, or a template"),
    (r"[Uu]nsupported gpu architecture", "this nvcc does not know that GPU: see targets, BRIDGE_CUDA_ARCHITECTURES"),
    (r"unsupported GNU version", "name a gcc that this nvcc takes in CUDAHOSTCXX"),
    (r"find_package\(bridge\)|bridgeConfig\.cmake", "bridge_DIR is the folder that `bridge cmake-dir` prints"),
)


def explain(output: str, own: Sequence[Path], most: int = 20) -> str:
    """The errors in an output, each once, with hints after them; its last lines where it holds none that is known.

    own: folders whose files are not the author's, such as bridge's headers.
    """
    errors = list(dict.fromkeys(_errors(output.splitlines(), own))) + _of_cmake(output)
    if not errors:
        return "\n".join(output.rstrip().splitlines()[-most:])
    text = "\n".join(errors)
    hints = [f"hint: {hint}" for pattern, hint in HINTS if re.search(pattern, text, re.MULTILINE)]
    left = [f"and {len(errors) - most} more"] if len(errors) > most else []
    return "\n".join([*errors[:most], *left, *hints])


def _errors(lines: Sequence[str], own: Sequence[Path]) -> Iterator[str]:
    end = 0  # of the last message
    for number, line in enumerate(lines):
        match = _error(line)
        if match is None:
            continue
        notes = _until_next(lines[number + 1 :])
        place = (match["file"], match["line"])
        if _within(place[0], own):
            users = _places(_NOTE_BEFORE, lines[end:number]) + _places(_NOTE_AFTER, notes)
            place = next((each for each in reversed(users) if not _within(each[0], own)), place)
        end = number + 1
        details = "".join(f"; {each.strip()}" for each in notes if _ARGUMENTS.fullmatch(each))
        assertion = _ASSERTION.fullmatch(match["text"])
        text = assertion[1] if assertion else match["text"]
        yield f"{place[0]}:{place[1]}: {text}{details}" if place[0] else text


def _error(line: str) -> re.Match[str] | None:
    return next((match for pattern in _ERRORS if (match := pattern.fullmatch(line))), None)


def _until_next(lines: Sequence[str]) -> list[str]:
    """The lines that belong to a message."""
    end = next((i for i, line in enumerate(lines) if _error(line) or line.startswith("[")), len(lines))
    return list(lines[:end])


def _places(note: re.Pattern[str], lines: Sequence[str]) -> list[tuple[str, str]]:
    found = [match for line in lines if (match := note.search(line))]
    return [(match["file"], match["line"]) for match in found]


def _within(file: str, folders: Sequence[Path]) -> bool:
    return any(Path(file).is_relative_to(folder) for folder in folders)


def _of_cmake(output: str) -> list[str]:
    return [" ".join(match[1].split()) for match in _CMAKE.finditer(output)]
