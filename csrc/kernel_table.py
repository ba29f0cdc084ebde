"""Registers, spills and shared memory of every kernel, from what ptxas says of a build: `make kernels`.

    cmake --build build | python csrc/kernel_table.py

The compiler must be given -Xptxas=-v. Shared memory is the static part; what a launch asks for comes on top.
"""

import re
import subprocess
import sys
from collections.abc import Iterable

_ENTRY = re.compile(r"Compiling entry function '(?P<name>\w+)' for '(?P<target>\w+)'")
_SPILLS = re.compile(r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads")
_USED = re.compile(r"Used (?P<registers>\d+) registers")
_SHARED = re.compile(r"(?P<shared>\d+) bytes smem")
_HEADINGS = ("target", "registers", "spilled bytes", "shared bytes", "kernel")


def kernels(lines: Iterable[str]) -> list[tuple[str, str, int, int, int]]:
    """(kernel, target, registers, bytes spilled, bytes of static shared memory), by target and name."""
    found = []
    name = target = ""
    spilled = 0
    for line in lines:
        if entry := _ENTRY.search(line):
            name, target, spilled = entry["name"], entry["target"], 0
        elif spills := _SPILLS.search(line):
            spilled = int(spills["stores"]) + int(spills["loads"])
        elif name and (used := _USED.search(line)):
            shared = _SHARED.search(line)
            found.append((name, target, int(used["registers"]), spilled, int(shared["shared"]) if shared else 0))
            name = ""
    return sorted(found, key=lambda row: (row[1], row[0]))


def demangle(names: list[str]) -> list[str]:
    """C++ names without their parameters, by c++filt; as they are where that is missing."""
    try:
        done = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return names
    return [name.removeprefix("void ").replace("bridge::", "") for name in done.stdout.splitlines()]


def main() -> int:
    """Reads a build's output from stdin; returns 1 where it holds no kernel."""
    rows = kernels(sys.stdin)
    if not rows:
        print("no kernel in this output: build from scratch, with -Xptxas=-v", file=sys.stderr)
        return 1
    names = demangle([row[0] for row in rows])
    print("{:8} {:>9} {:>13} {:>12}  {}".format(*_HEADINGS))
    for name, (_, target, *numbers) in zip(names, rows, strict=True):
        print("{:8} {:9} {:13} {:12}  {}".format(target, *numbers, name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
