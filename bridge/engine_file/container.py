"""The frame of an engine file: a JSON header and a payload, written atomically, read with a checksum.

Layout, little-endian:

    offset      size   what
    0           8      magic, b"\\x89BRIDGE\\n"
    8           8      format version
    16          8      header length H
    24          8      payload length P
    32          H      header: JSON in UTF-8 (Python's: Infinity and NaN may stand for floats), of at most 64 MiB
    32+H        P      payload: the engine, as TensorRT serialised it
    32+H+P      32     SHA-256 of everything before it

Later formats keep this frame and `metadata.bridge` in the header. So an older bridge can tell a newer file from a
damaged one, and name the version that wrote it. Format 1 is not read: its pytrees were torch's text, which can make a
reader import modules.

The sizes in the preamble must match the file. A sparse file may claim any size, so sizes beyond this machine's memory
are rejected before the payload is read.
"""

import contextlib
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from bridge.base.files import open_regular, replacing
from bridge.errors import EngineFileError

MAGIC = b"\x89BRIDGE\n"
FORMAT = 2

_PREAMBLE = struct.Struct("<8sQQQ")
_DIGEST_SIZE = hashlib.sha256().digest_size
_FRAME_SIZE = _PREAMBLE.size + _DIGEST_SIZE
_LARGEST_HEADER = 64 << 20
_LONGEST_VERSION = 80
_CONTROL_GROUP = Path("/sys/fs/cgroup/memory.max")
_REMEDY = "copy or compile it again"
# Files passed by mistake: (first bytes, what it is).
_OTHER_FILES = (
    (b"ftrt", "a bare TensorRT engine; bridge needs the file that CompiledModule.save or `bridge compile` wrote"),
    (b"ptrt", "a bare TensorRT engine; bridge needs the file that CompiledModule.save or `bridge compile` wrote"),
    (b"PK\x03\x04", "a zip archive, such as torch.save or torch.export.save write"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with `git lfs pull`"),
    (b"\x08", "perhaps an ONNX model"),
)


def write(path: str | os.PathLike[str], header: dict[str, Any], payload: bytes, private: bool = False) -> None:
    """Writes the file atomically: an existing file at `path` stays until the new one is complete.

    private: no other user may read it.
    """
    encoded = _encode(header)
    preamble = _PREAMBLE.pack(MAGIC, FORMAT, len(encoded), len(payload))
    try:
        path = Path(os.path.realpath(path))
        with replacing(path, private) as file:
            digest = hashlib.sha256()
            for part in (preamble, encoded, payload):
                digest.update(part)
                file.write(part)
            file.write(digest.digest())
    except (OSError, ValueError) as error:  # ValueError: an invalid path
        raise EngineFileError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bytes]:
    """(header, payload) of a complete, undamaged file. Memory holds one copy of the payload."""
    try:
        with open_regular(path) as file:
            preamble = _read_preamble(file, os.fstat(file.fileno()).st_size)
            _, version, header_size, payload_size = _PREAMBLE.unpack(preamble)
            header = file.read(header_size)
            parsed = _parse_header(header, version)
            payload = file.read(payload_size)
            _check_digest(file.read(_DIGEST_SIZE), preamble, header, payload)
    except OSError as error:
        raise EngineFileError(f"cannot read it: {error.strerror or error}") from error
    except MemoryError as error:
        raise EngineFileError("cannot read it: there is not enough memory for what it says it holds") from error
    return _checked_header(parsed, version), payload


def _encode(header: dict[str, Any]) -> bytes:
    try:
        encoded = json.dumps(header).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EngineFileError(f"an engine file's header holds JSON values only: {error}") from error
    if len(encoded) > _LARGEST_HEADER:
        raise EngineFileError(
            f"what is known of the engine takes {len(encoded):,} bytes of at most {_LARGEST_HEADER:,}"
        )
    return encoded


def _read_preamble(file: BinaryIO, size: int) -> bytes:
    """The preamble, with its lengths checked against the size of the file and the memory."""
    preamble = file.read(_PREAMBLE.size)
    if not preamble:
        raise EngineFileError("the file is empty")
    if not preamble.startswith(MAGIC[: len(preamble)]):
        raise EngineFileError(_not_engine_file_text(preamble))
    if size < _FRAME_SIZE:
        raise EngineFileError(f"truncated: {size:,} bytes, and an engine file has more than {_FRAME_SIZE}")
    _, _, header_size, engine_size = _PREAMBLE.unpack(preamble)
    expected = _FRAME_SIZE + header_size + engine_size
    if size != expected:
        what = "truncated or damaged" if size < expected else "damaged"
        raise EngineFileError(f"{what}: expected {expected:,} bytes, but the file has {size:,}; {_REMEDY}")
    if header_size > _LARGEST_HEADER:
        raise EngineFileError(
            f"damaged: its header has {header_size:,} bytes, of at most {_LARGEST_HEADER:,}; {_REMEDY}"
        )
    memory = machine_memory()
    if memory is not None and engine_size > memory:
        raise EngineFileError(f"its engine has {engine_size:,} bytes, and this machine a memory of {memory:,}")
    return preamble


def machine_memory() -> int | None:
    """The most bytes that this process can have: the machine's memory, or the limit of its control group."""
    limits = []
    with contextlib.suppress(OSError, ValueError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # "max" without a limit
        limits.append(int(_CONTROL_GROUP.read_text()))
    return min(limits, default=None)


def _not_engine_file_text(start: bytes) -> str:
    guess = next((f" ({what})" for prefix, what in _OTHER_FILES if start.startswith(prefix)), "")
    return f"not a bridge engine: it starts with {start[:16]!r}{guess}, not with {MAGIC!r}"


def _check_digest(stored: bytes, *parts: bytes) -> None:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    if stored != digest.digest():
        raise EngineFileError(
            f"damaged: its checksum is {digest.hexdigest()[:16]}…, but the file says {stored.hex()[:16]}…; {_REMEDY}"
        )


def _parse_header(header: bytes, version: int) -> Any:
    """The parsed header; for another format, the error if it is no JSON. EngineFileError: damaged, of this format."""
    try:
        return json.loads(header.decode())
    except (ValueError, RecursionError) as error:
        if version == FORMAT:
            raise EngineFileError(f"bad header: it is no JSON: {error}; {_REMEDY}") from error
        return error


def _checked_header(parsed: Any, version: int) -> dict[str, Any]:
    if version != FORMAT:
        raise EngineFileError(_other_format(version, parsed))
    if not isinstance(parsed, dict):
        raise EngineFileError(f"bad header: a {type(parsed).__name__}, no object")
    return parsed


def _other_format(version: int, header: Any) -> str:
    metadata = header.get("metadata") if isinstance(header, dict) else None
    writer = metadata.get("bridge") if isinstance(metadata, dict) else None
    writer = writer if isinstance(writer, str) and writer.isprintable() and len(writer) < _LONGEST_VERSION else None
    if version < FORMAT:
        return f"engine file format {version} is older than this bridge reads ({FORMAT}); compile the model again"
    remedy = f"bridge {writer} wrote it and reads it" if writer else "a newer bridge reads it"
    return f"engine file format {version} is newer than this bridge reads ({FORMAT}); {remedy}: update bridge"
