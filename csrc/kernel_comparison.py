"""Every kernel of a library on every GPU that it was built for: registers, shared memory, occupancy, instructions.

    python csrc/kernel_comparison.py build/kernels/lib/libbridge_plugins.so [--json docs/measurements]

It needs cuobjdump, of the CUDA toolkit or of Triton, and no GPU. A kernel's instances, for dtypes and sizes, are one
row. Counts of instructions are those of the code, not of a run. Occupancy counts registers, threads and static shared
memory; what a launch asks for comes on top.
"""

import argparse
import datetime
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kernel_table import demangle

_REGISTERS = 65536  # of a multiprocessor, for every GPU here; its four parts give them to warps, 256 at a time
_PARTS, _UNIT, _WARP = 4, 256, 32
_USUAL_THREADS = 256  # of a block whose kernel has no bound
_EMPTY = 24  # instructions: a kernel whose body is another GPU's has fewer
# Warps and blocks of a multiprocessor, and KiB of its shared memory, as the CUDA C++ Programming Guide has them.
_LIMITS = {
    75: (32, 16, 64),
    80: (64, 32, 164),
    86: (48, 16, 100),
    87: (48, 16, 164),
    89: (48, 24, 100),
    90: (64, 32, 228),
    100: (64, 32, 228),
    103: (64, 32, 228),
    110: (48, 24, 228),
    120: (48, 24, 100),
    121: (48, 24, 100),
}
# What instructions are for, by how their names begin; the first that fits. The rest moves, compares and branches.
_KINDS = (
    ("tensor", ("HMMA", "IMMA", "QMMA", "OMMA", "DMMA", "BMMA", "HGMMA", "IGMMA", "QGMMA", "UTCHMMA")),
    ("async", ("LDGSTS", "UBLKCP", "UTMA", "UBLKPF")),
    ("global", ("LDG", "STG", "LD ", "ST ", "ATOMG", "RED")),
    ("shared", ("LDS", "STS", "LDSM", "STSM", "ATOMS")),
    ("local", ("LDL", "STL")),
    ("float", ("FFMA", "FADD", "FMUL", "HFMA", "HADD", "HMUL", "MUFU", "FMNMX", "HMNMX", "F2F")),
    ("integer", ("IMAD", "IADD", "LEA", "SHF", "LOP3", "ISETP", "IABS", "IMNMX", "UIMAD", "UIADD", "ULOP3", "USHF")),
)
_RESOURCES = """Of all instances of a kernel, for dtypes and sizes: registers of a thread, static shared memory, and the
warps that a multiprocessor holds at once by registers, threads and static shared memory. What a launch
asks for comes on top. "-": the body of the kernel is another GPU's.""".replace("\n", " ")
_MIXES = """How many instructions all instances of a kernel have, in their code, not in a run, and which kinds they
are, in percent: tensor cores, asynchronous copies, memory, shared memory, local memory, floating-point
and integer arithmetic. The rest moves, compares and branches.""".replace("\n", " ")
_OPTIONS = ("--dump-resource-usage", "-elf", "-sass")
_ARCH = re.compile(r"^arch = sm_(\d+\w?)")
_FUNCTION = re.compile(r"^\s*Function\s*:?\s*(\w+)")
_USED = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][A-Z0-9_]*)")
_INFO = re.compile(r"^\.nv\.info\.(\w+)")


@dataclass
class Instance:
    """A kernel for one GPU. threads: of a block at most, 0 where that is not said."""

    registers: int = 0
    shared: int = 0
    threads: int = 0
    instructions: Counter[str] = field(default_factory=Counter)  # by kind

    def is_empty(self) -> bool:
        """Whether its body is another GPU's."""
        return self.instructions.total() < _EMPTY

    def warps(self, target: str) -> int:
        """How many a multiprocessor holds at once. ValueError: nothing is known of such a GPU."""
        limits = _LIMITS.get(int(re.sub(r"\D", "", target)))
        if limits is None:
            raise ValueError(f"_LIMITS in {Path(__file__).name} lacks compute capability {target}")
        most_warps, most_blocks, kib = limits
        of_block = -(-(self.threads or _USUAL_THREADS) // _WARP)
        of_warp = max(_UNIT, -(-self.registers * _WARP // _UNIT) * _UNIT)
        blocks = min(
            most_blocks,
            most_warps // of_block,
            _REGISTERS // _PARTS // of_warp * _PARTS // of_block,
            kib * 1024 // self.shared if self.shared else most_blocks,
        )
        return blocks * of_block


Instances = dict[tuple[str, str], Instance]  # by mangled name and target, such as 90a


def tool() -> str:
    """cuobjdump of PATH, or of Triton. FileNotFoundError: there is neither."""
    found = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if found is None and triton is not None and triton.origin:
        beside = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
        os.environ["PATH"] += f"{os.pathsep}{beside}"  # where it finds nvdisasm, too
        found = shutil.which("cuobjdump")
    if found is None:
        raise FileNotFoundError("cuobjdump is not on PATH, and Triton is not installed, which has one")
    return found


def read(lines: Mapping[str, Iterable[str]]) -> Instances:
    """Every kernel, from what cuobjdump says with --dump-resource-usage, -elf and -sass."""
    found: Instances = {}
    for option, text in lines.items():
        target = name = ""
        asked = False  # for the threads of a block, which follow the attribute's name
        for line in text:
            if match := _ARCH.search(line):
                target, name = match[1], ""
            elif match := (_INFO if option == "-elf" else _FUNCTION).search(line):
                name, asked = match[1], False
            elif name and option == "-elf":
                asked = asked or "EIATTR_MAX_THREADS" in line
                if asked and (value := re.search(r"Value:\s+(0x[0-9a-f]+)", line)):
                    found.setdefault((name, target), Instance()).threads, asked = int(value[1], 16), False
            elif name and option == "-sass" and (match := _INSTRUCTION.search(line)):
                found.setdefault((name, target), Instance()).instructions[kind(match[1])] += 1
            elif name and (match := _USED.search(line)):
                instance = found.setdefault((name, target), Instance())
                instance.registers, instance.shared = int(match[1]), int(match[3])
    return {key: instance for key, instance in found.items() if instance.registers}


def kind(name: str) -> str:
    """What an instruction is for."""
    return next((kind for kind, prefixes in _KINDS if f"{name} ".startswith(prefixes)), "other")


def by_kernel(instances: Instances) -> dict[str, dict[str, list[Instance]]]:
    """The instances of each kernel, by its name without template arguments, and by target."""
    names = sorted({name for name, _ in instances})
    short = {
        name: re.sub(r"<.*", "", full).rsplit("::", 1)[-1] for name, full in zip(names, demangle(names), strict=True)
    }
    kernels: dict[str, dict[str, list[Instance]]] = {}
    for (name, target), instance in sorted(instances.items()):
        kernels.setdefault(short[name], {}).setdefault(target, []).append(instance)
    return kernels


def targets_of(instances: Instances) -> list[str]:
    """The targets, such as 80, 90a, by number."""
    return sorted({target for _, target in instances}, key=lambda target: int(re.sub(r"\D", "", target)))


def resources(kernels: Mapping[str, Mapping[str, Sequence[Instance]]], targets: Sequence[str]) -> list[list[str]]:
    """A row for each kernel: its instances, then for each target registers, shared memory, warps and local memory."""
    return [
        [name, str(max(map(len, of.values()))), *(_resources(of.get(target, ()), target) for target in targets)]
        for name, of in kernels.items()
    ]


def _resources(instances: Sequence[Instance], target: str) -> str:
    real = [instance for instance in instances if not instance.is_empty()]
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


def mixes(kernels: Mapping[str, Mapping[str, Sequence[Instance]]], targets: Sequence[str]) -> list[list[str]]:
    """A row for each kernel: for each target the instructions of all instances, and percentages of their kinds."""
    return [[name, *(_mix(of.get(target, ())) for target in targets)] for name, of in kernels.items()]


def _mix(instances: Sequence[Instance]) -> str:
    counts = sum((each.instructions for each in instances if not each.is_empty()), Counter())
    if not counts:
        return "-"
    total = counts.total()
    shares = [f"{name} {100 * counts[name] / total:.0f}" for name, _ in _KINDS if counts[name] / total >= 0.005]
    return f"{total}: {', '.join(shares)}"


def _range(values: Sequence[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)}-{max(values)}"


def tables(instances: Instances, source: str) -> dict[str, dict[str, object]]:
    """The two tables as docs/measurements has them, by file name."""
    targets, kernels = targets_of(instances), by_kernel(instances)
    gpus = [f"{int(re.sub(r'[^0-9]', '', target)) / 10:.1f}" for target in targets]
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
            instances |= read(
                {option: _output(option, library) for option in ("--dump-resource-usage", "-elf", "-sass")}
            )
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
        print()
        if options.json:
            (options.json / name).write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    return 0


def _output(option: str, library: Path) -> Iterable[str]:
    """What cuobjdump says of a library, line by line: tens of megabytes."""
    with subprocess.Popen(
        [tool(), option, library], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stdout is not None
        yield from run.stdout
    if run.returncode:
        raise RuntimeError(f"cuobjdump {option} {library} ended with {run.returncode}")


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
