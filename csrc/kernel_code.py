"""Kernels in a built library, GPU by GPU: what cuobjdump says of them. For kernel_comparison.py.

cuobjdump is of the CUDA toolkit or of Triton; no GPU is needed.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_REGISTERS = 65536  # of a multiprocessor, for every GPU here; its four parts give them to warps, 256 at a time
_PARTS, _UNIT, _WARP = 4, 256, 32
_USUAL_THREADS = 256  # of a block whose kernel has no bound
_EMPTY = 24  # instructions: a kernel whose body is another GPU's has fewer
# Warps and blocks of a multiprocessor, and KiB of its shared memory, as the CUDA C++ Programming Guide has them.
LIMITS = {
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
KINDS = (
    ("tensor", ("HMMA", "IMMA", "QMMA", "OMMA", "DMMA", "BMMA", "HGMMA", "IGMMA", "QGMMA", "UTCHMMA")),
    ("async", ("LDGSTS", "UBLKCP", "UTMA", "UBLKPF")),
    ("global", ("LDG", "STG", "LD ", "ST ", "ATOMG", "RED")),
    ("shared", ("LDS", "STS", "LDSM", "STSM", "ATOMS")),
    ("local", ("LDL", "STL")),
    ("float", ("FFMA", "FADD", "FMUL", "HFMA", "HADD", "HMUL", "MUFU", "FMNMX", "HMNMX", "F2F")),
    ("integer", ("IMAD", "IADD", "LEA", "SHF", "LOP3", "ISETP", "IABS", "IMNMX", "UIMAD", "UIADD", "ULOP3", "USHF")),
)
_ARCH = re.compile(r"^arch = sm_(\d+\w?)")
_FUNCTION = re.compile(r"^\s*Function\s*:?\s*(\w+)")
_INFO = re.compile(r"^\.nv\.info\.(\w+)")
_USED = re.compile(r"REG:(\d+) STACK:\d+ SHARED:(\d+)")
_ATTRIBUTE = re.compile(r"Attribute:\s+(\w+)")
_VALUE = re.compile(r"Value:\s+(0x[0-9a-f]+)")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[0-9T]+\s+)?([A-Z][A-Z0-9_]*)")


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
        limits = LIMITS.get(int(re.sub(r"\D", "", target)))
        if limits is None:
            raise ValueError(f"LIMITS in {Path(__file__).name} lacks compute capability {target}")
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

    def occupancy(self, target: str) -> float:
        """The same as a share of the warps that fit."""
        return self.warps(target) / LIMITS[int(re.sub(r"\D", "", target))][0]


Instances = dict[tuple[str, str], Instance]  # by mangled name and target, such as 90a


def _tool() -> str:
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


def of_library(path: Path) -> Instances:
    """Every kernel of a library, or of an object file. OSError, RuntimeError: cuobjdump is missing, or fails."""
    return read({option: _output(option, path) for option in ("--dump-resource-usage", "-elf", "-sass")})


def read(outputs: Mapping[str, Iterable[str]]) -> Instances:
    """Every kernel, from the lines that cuobjdump prints with each of the three options."""
    found: Instances = {}
    for key, line in _by_kernel(outputs["--dump-resource-usage"], _FUNCTION):
        if match := _USED.search(line):
            found[key] = Instance(int(match[1]), int(match[2]))
    attribute = ""
    for key, line in _by_kernel(outputs["-elf"], _INFO):
        if match := _ATTRIBUTE.search(line):
            attribute = match[1]
        elif attribute == "EIATTR_MAX_THREADS" and key in found and (match := _VALUE.search(line)):
            found[key].threads, attribute = int(match[1], 16), ""
    for key, line in _by_kernel(outputs["-sass"], _FUNCTION):
        if key in found and (match := _INSTRUCTION.search(line)):
            found[key].instructions[kind(match[1])] += 1
    return found


def _by_kernel(lines: Iterable[str], heading: re.Pattern[str]) -> Iterator[tuple[tuple[str, str], str]]:
    """Each line below a kernel's heading, with the kernel's name and target."""
    target = name = ""
    for line in lines:
        if match := _ARCH.search(line):
            target, name = match[1], ""
        elif match := heading.search(line):
            name = match[1]
        elif name:
            yield (name, target), line


def kind(name: str) -> str:
    """What an instruction is for."""
    return next((kind for kind, prefixes in KINDS if f"{name} ".startswith(prefixes)), "other")


def _output(option: str, library: Path) -> Iterator[str]:
    """What cuobjdump says of a library, line by line: tens of megabytes."""
    command = [_tool(), option, str(library)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        yield from run.stdout
    if run.returncode:
        raise RuntimeError(f"cuobjdump {option} {library} ended with {run.returncode}")
