"""Device code for several GPUs as one compressed fat binary, by NVIDIA's library nvFatbin.

It is in the package nvidia-nvfatbin, or in a CUDA toolkit.
"""

import ctypes
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from bridge.errors import LibraryError

_IN_PACKAGES = "nvidia/*/lib"
_IN_TOOLKIT = ("lib64", "lib", "targets/x86_64-linux/lib")
_TOOLKIT = "/usr/local/cuda"
_NAME = "libnvfatbin.so*"
_SPECIFIC = 90  # from here on Triton compiles for architectures such as sm_90a, whose code runs on that one alone


def fat_binary(cubins: Mapping[int, bytes], name: str) -> bytes:
    """Joins cubins by compute capability, such as 86.

    name: what cuobjdump calls them.

    Raises:
        LibraryError: nvFatbin is not installed, or refuses a cubin; the message has its reason.
    """
    library = _library()
    handle = ctypes.c_void_p()
    options = (ctypes.c_char_p * 1)(b"-compress-all")
    _check(library.nvFatbinCreate(ctypes.byref(handle), options, len(options)), "nvFatbinCreate")
    try:
        for capability, cubin in sorted(cubins.items()):
            architecture = f"{capability}{'a' if capability >= _SPECIFIC else ''}".encode()
            status = library.nvFatbinAddCubin(handle, cubin, ctypes.c_size_t(len(cubin)), architecture, name.encode())
            _check(status, f"a cubin of {name} for sm{capability}")
        size = ctypes.c_size_t()
        _check(library.nvFatbinSize(handle, ctypes.byref(size)), "nvFatbinSize")
        joined = ctypes.create_string_buffer(size.value)
        _check(library.nvFatbinGet(handle, joined), "nvFatbinGet")
        return joined.raw
    finally:
        library.nvFatbinDestroy(ctypes.byref(handle))


def _check(status: int, what: str) -> None:
    if status:
        reason = _library().nvFatbinGetErrorString(status)
        raise LibraryError(f"nvFatbin refuses {what}: {reason.decode() if reason else status}")


@cache
def _library() -> ctypes.CDLL:
    path = _find()
    if path is None:
        raise LibraryError(
            "libnvfatbin is not installed, which joins the kernels of several GPUs: pip install nvidia-nvfatbin, or "
            "set CUDA_HOME to a CUDA toolkit that has it"
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise LibraryError(f"{path} does not load: {error}") from error
    library.nvFatbinGetErrorString.restype = ctypes.c_char_p
    return library


def _find() -> Path | None:
    """The library of a Python package, newest first; else that of a CUDA toolkit."""
    packages = [(Path(entry), _IN_PACKAGES) for entry in sys.path]
    toolkits = [(Path(root), part) for root in (os.environ.get("CUDA_HOME"), _TOOLKIT) if root for part in _IN_TOOLKIT]
    for folder, pattern in packages + toolkits:
        if found := sorted(folder.glob(f"{pattern}/{_NAME}")):
            return found[-1]
    return None
