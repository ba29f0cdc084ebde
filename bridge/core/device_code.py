"""Which GPUs a native library holds code for, read from the device code that nvcc put into it."""

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_SECTION = b".nv_fatbin"
_FAT_BINARY = 0xBA55ED50
_PTX, _CUBIN = 1, 2
_SPECIFIC = 1 << 20  # the flag of code for sm_90a and the like
_FAST = b"bridge: kernels are compiled fast, and slow"  # as in csrc/core/library.cpp
_MODULES = (72, 87)  # GPUs of Jetson modules: they run no code of other capabilities, and others none of theirs


@dataclass(frozen=True, order=True)
class DeviceCode:
    """Code for one compute capability, such as 86.

    ptx: of a virtual architecture, which later GPUs take too. specific: as in sm_90a, for that capability alone.
    """

    capability: int
    ptx: bool
    specific: bool = False

    def runs_on(self, capability: int) -> bool:
        """Whether a GPU of a compute capability, such as 89, runs it."""
        if self.specific:
            return capability == self.capability
        if self.ptx:
            return capability >= self.capability
        if capability in _MODULES or self.capability in _MODULES:
            return capability == self.capability
        return self.capability // 10 == capability // 10 and self.capability <= capability

    def __str__(self) -> str:
        return f"{'compute' if self.ptx else 'sm'}_{self.capability}{'a' if self.specific else ''}"


@cache
def device_codes(path: Path) -> tuple[DeviceCode, ...]:
    """The code in an ELF library, sorted; empty where there is none, or it is in a form that is not known."""
    if not path.stat().st_size:
        return ()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return tuple(sorted({code for section in _sections(data) for code, _ in _entries(section)}))
        except (struct.error, IndexError):  # damaged
            return ()


def is_compiled_fast(path: Path) -> bool:
    """Whether a library was built with BRIDGE_FAST_COMPILE, which makes its kernels slow."""
    return _FAST in path.read_bytes()


def lacking_text(codes: Sequence[DeviceCode], target: str) -> str | None:
    """That none of the code runs on a target such as "sm86"; None where some does, or none is known."""
    capability = int(target.removeprefix("sm"))
    if not codes or any(code.runs_on(capability) for code in codes):
        return None
    return f"code for {', '.join(map(str, codes))}, none of which runs on {target}"


def code_bytes(fat_binary: bytes) -> dict[int, int]:
    """Bytes that a fat binary has for each compute capability, compressed as they are."""
    return {code.capability: size for code, size in _entries(fat_binary)}


def _sections(data: mmap.mmap) -> Iterator[bytes]:
    """The sections of a 64-bit ELF file that hold device code."""
    if data[:5] != b"\x7fELF\x02":
        return
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    rows = [struct.unpack_from("<IIQQQQ", data, table + index * size) for index in range(count)]
    for name, _, _, _, offset, length in rows:
        start = rows[names][4] + name
        if data[start : data.find(b"\0", start)] == _SECTION:
            yield data[offset : offset + length]


def _entries(section: bytes) -> Iterator[tuple[DeviceCode, int]]:
    """Every code with its bytes. A section is a row of fat binaries, each a header and a row of entries."""
    place = 0
    while place + 16 <= len(section):
        magic, _, header, size = struct.unpack_from("<IHHQ", section, place)
        if magic != _FAT_BINARY or header < 16:
            place += 8  # padding between two of them
            continue
        end = place + header + size
        place += header
        while place + 48 <= end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", section, place)
            capability, _, _, flags = struct.unpack_from("<IIIQ", section, place + 28)
            if kind in (_PTX, _CUBIN):
                yield DeviceCode(capability, kind == _PTX, bool(flags & _SPECIFIC)), entry_size
            place += max(entry_header + entry_size, 48)  # of a damaged one, so that this ends
        place = end
