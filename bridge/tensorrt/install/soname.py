"""Makes a loaded library findable under another name.

The ONNX parser of TensorRT-RTX opens "libtensorrt_rtx.so", but its wheel ships "libtensorrt_rtx.so.1" alone, and the
process dies when the name is not found. The dynamic linker compares such a name with the SONAME of every library in
the process before it searches the disk. So an otherwise empty library is loaded: its SONAME is that name, and its
only dependency is the library that was shipped. Symbols looked up in it are found in the dependency. Its few hundred
bytes are written here, because there may be no compiler where bridge runs.

Layout of the file: System V ABI, "ELF header", "Program header" and "Dynamic section".
"""

import ctypes
import os
import platform
import struct
import tempfile

_MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine
_PT_LOAD, _PT_DYNAMIC, _READ_WRITE = 1, 2, 6
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 0, 1, 5, 6, 10, 11, 14
_EHDR, _PHDR, _DYN, _SYM = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ"), struct.Struct("<qQ"), 24


def provide(soname: str, library: str) -> None:
    """Makes the loaded `library` findable as `soname` until the process ends."""
    if not _is_loaded(soname):
        _load(alias_image(soname, library))


def alias_image(soname: str, library: str, machine: str | None = None) -> bytes:
    """The bytes of an empty 64-bit little-endian shared library named `soname` that depends on `library`."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        raise OSError(f"cannot make {soname} for the processor {machine!r}; known are {', '.join(_MACHINES)}")
    strings = b"\0" + library.encode() + b"\0" + soname.encode() + b"\0"
    dynamic_at = _EHDR.size + 2 * _PHDR.size
    symbols_at = dynamic_at + 7 * _DYN.size
    strings_at = symbols_at + _SYM
    size = strings_at + len(strings)
    dynamic = [
        (_DT_NEEDED, 1),
        (_DT_SONAME, 2 + len(library.encode())),
        (_DT_STRTAB, strings_at),
        (_DT_STRSZ, len(strings)),
        (_DT_SYMTAB, symbols_at),
        (_DT_SYMENT, _SYM),
        (_DT_NULL, 0),
    ]
    ident = b"\x7fELF" + bytes([2, 1, 1])  # 64 bits, little endian, version 1; struct pads with zeros
    header = _EHDR.pack(ident, 3, _MACHINES[machine], 1, 0, _EHDR.size, 0, 0, _EHDR.size, _PHDR.size, 2, 64, 0, 0)
    load = _PHDR.pack(_PT_LOAD, _READ_WRITE, 0, 0, 0, size, size, 0x10000)
    table = _PHDR.pack(_PT_DYNAMIC, _READ_WRITE, dynamic_at, dynamic_at, dynamic_at, 7 * _DYN.size, 7 * _DYN.size, 8)
    return header + load + table + b"".join(_DYN.pack(*entry) for entry in dynamic) + bytes(_SYM) + strings


def _is_loaded(name: str) -> bool:
    try:
        ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return False
    return True


def _load(image: bytes) -> None:
    with tempfile.NamedTemporaryFile(prefix="bridge-", suffix=".so") as file:
        file.write(image)
        file.flush()
        ctypes.CDLL(file.name, mode=ctypes.RTLD_GLOBAL)
