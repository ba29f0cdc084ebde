"""Compares the kernels of a built library GPU by GPU: registers, shared memory, occupancy, instructions.

    python csrc/kernel_comparison.py build/kernels/lib/libbridge_plugins.so [--json docs/measurements]

A kernel's instances, for dtypes and sizes, are one row. Counts of instructions are those of the code, not of a run.
Occupancy counts registers, threads and static shared memory; what a launch asks for comes on top.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kernel_code import KINDS, Instance, Instances, of_library
from kernel_table import demangle

_MEASURED = "90a"  # the target whose kernels were timed: the others are compared with it
_LESS = 0.7  # of its occupancy; less is noted
_RESOURCES = (
    "Of all instances of a kernel, for dtypes and sizes: registers of a thread, static shared memory, and the warps"
    " that a multiprocessor holds at once by registers, threads and static shared memory. What a launch asks for comes"
    ' on top; CUDA keeps 1 KiB of each block on 9.0 and later. "-": the body of the kernel is another GPU\'s.'
)
_MIXES = (
    "How many instructions all instances of a kernel have, in their code, not in a run, and which kinds they are, in"
    " percent: tensor cores, asynchronous copies, memory, shared memory, local memory, floating-point and integer"
    " arithmetic. The rest moves, compares and branches."
)

Kernels = Mapping[str, Mapping[str, Mapping[str, Instance]]]  # by short name, target and mangled name


def by_kernel(instances: Instances) -> Kernels:
    """The instances of each kernel, by its name without template arguments, and by target."""
    names = sorted({name for name, _ in instances})
    short = {
        name: re.sub(r"<.*", "", full).rsplit("::", 1)[-1] for name, full in zip(names, demangle(names), strict=True)
    }
    kernels: dict[str, dict[str, dict[str, Instance]]] = {}
    for (name, target), instance in sorted(instances.items()):
        kernels.setdefault(short[name], {}).setdefault(target, {})[name] = instance
    return kernels


def targets_of(instances: Instances) -> list[str]:
    """The targets, such as 80, 90a, by number."""
    return sorted({target for _, target in instances}, key=lambda target: int(re.sub(r"\D", "", target)))


def resources(kernels: Kernels, targets: Sequence[str]) -> list[list[str]]:
    """A row for each kernel: its instances, then for each target registers, shared memory, warps and local memory."""
    return [
        [name, str(max(map(len, of.values()))), *(_resources(of.get(target, {}), target) for target in targets)]
        for name, of in kernels.items()
    ]


def _resources(instances: Mapping[str, Instance], target: str) -> str:
    real = [instance for instance in instances.values() if not instance.is_empty()]
    if not real:
        return "-"
    shared = max(instance.shared for instance in real)
    local = sum(instance.instructions["local"] > 0 for instance in real)
    warps = [instance.warps(target) for instance in real]
    parts = [
        f"{_range([instance.registers for instance in real])} registers",
        *([f"{shared / 1024:.0f} KiB"] if shared else []),
        f"{_range(warps)} warps",
        *([f"{local} with local memory"] if local else []),
    ]
    return ", ".join(parts)


def mixes(kernels: Kernels, targets: Sequence[str]) -> list[list[str]]:
    """A row for each kernel: for each target the instructions of all instances, and percentages of their kinds."""
    return [[name, *(_mix(of.get(target, {})) for target in targets)] for name, of in kernels.items()]


def _mix(instances: Mapping[str, Instance]) -> str:
    counts = sum((each.instructions for each in instances.values() if not each.is_empty()), Counter())
    if not counts:
        return "-"
    total = counts.total()
    shares = [f"{name} {_percent(counts[name] / total)}" for name, _ in KINDS if counts[name]]
    return f"{total}: {', '.join(shares)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.005 else "<1"


def notes(kernels: Kernels, targets: Sequence[str]) -> list[str]:
    """Where a kernel is worse off than on the GPU that it was timed on: fewer warps, or local memory."""
    return [note for name, of in kernels.items() for target in targets for note in _notes(name, of, target)]


def _notes(name: str, of: Mapping[str, Mapping[str, Instance]], target: str) -> Iterator[str]:
    here, timed_on = of.get(target, {}), of.get(_MEASURED, {})
    both = [(here[each], timed_on[each]) for each in here if each in timed_on]
    pairs = [(instance, timed) for instance, timed in both if not instance.is_empty() and not timed.is_empty()]
    fewer = [(i.occupancy(target), t.occupancy(_MEASURED)) for i, t in pairs]
    worst = min(fewer, key=lambda pair: pair[0] / pair[1], default=(1.0, 1.0))
    if worst[0] < _LESS * worst[1]:
        yield f"{name} fills {worst[0]:.0%} of a multiprocessor's warps on {_gpu(target)}, {worst[1]:.0%} on 9.0."
    local = sum(i.instructions["local"] > 0 and not t.instructions["local"] for i, t in pairs)
    if local:
        yield f"{local} of {len(pairs)} {name} use local memory on {_gpu(target)}, and not on 9.0."


def _gpu(target: str) -> str:
    """The compute capability of a target, such as 9.0 of 90a."""
    return f"{int(re.sub('[^0-9]', '', target)) / 10:.1f}"


def _range(values: Sequence[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)}-{max(values)}"


def tables(instances: Instances, source: str) -> dict[str, dict[str, object]]:
    """The two tables as docs/measurements has them, by file name."""
    targets, kernels = targets_of(instances), by_kernel(instances)
    gpus = [_gpu(target) for target in targets]
    head = {
        "gpu": f"no GPU; code for compute capability {', '.join(gpus)}",
        "date": datetime.date.today().isoformat(),
        "versions": {"nvcc": source},
    }
    resource_table = {
        "title": "Registers, shared memory and occupancy of every kernel",
        **head,
        "what": _RESOURCES,
        "columns": ["kernel", "instances", *gpus],
        "rows": resources(kernels, targets),
        "notes": notes(kernels, targets),
    }
    mix_table = {
        "title": "Instructions of every kernel",
        **head,
        "what": _MIXES,
        "columns": ["kernel", *gpus],
        "rows": mixes(kernels, targets),
    }
    return {"11_kernel_resources.json": resource_table, "12_kernel_instructions.json": mix_table}


def main() -> int:
    """Prints both tables of the libraries on the command line, and writes them; returns 1 where they hold no kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="+", type=Path, metavar="LIBRARY", help="several: parts of one, or targets")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write the tables for the documentation")
    options = parser.parse_args()
    instances: Instances = {}
    try:
        for library in options.libraries:
            instances |= of_library(library)
        found = tables(instances, _compiler())
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if not instances:
        print(f"no kernel in {', '.join(map(str, options.libraries))}", file=sys.stderr)
        return 1
    for name, table in found.items():
        print(f"{table['title']}\n")
        for row in (table["columns"], *table["rows"]):  # type: ignore[misc]
            print(" | ".join(row))
        print(*table.get("notes", ()), sep="\n")  # type: ignore[misc]
        print()
        if options.json:
            (options.json / name).write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    return 0


def _compiler() -> str:
    """The version of nvcc on PATH."""
    try:
        text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    match = re.search(r"release ([\d.]+)", text)
    return match[1] if match else "unknown"


if __name__ == "__main__":
    sys.exit(main())
