"""The compilers that libraries are built with, as bridge's toolchain finds them; and a library of plugins in C."""

import os
import shutil
import subprocess

import pytest

from bridge.core.plugin_file import LOADER_ABI
from bridge.errors import LibraryError
from bridge.toolchain import tools


def _present() -> bool:
    try:
        tools.nvcc(), tools.program("cmake"), tools.program("ninja")
    except LibraryError:
        return False
    return shutil.which("c++") is not None


def environment() -> dict[str, str]:
    """For a build: names the compiler."""
    return os.environ | {"CUDACXX": str(tools.nvcc())}


needs_compilers = pytest.mark.skipif(not _present(), reason="needs nvcc, cmake, ninja and a C++ compiler")
needs_c_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")

# One op, whose rule turns the extents of its first tensor round.
STUB = r"""
#include <stdint.h>
#include <string.h>
void* const* getCreators(int32_t* count) { return *count = 0, (void*)0; }
int32_t bridge_loader_abi() { return ABI; }
char const* bridge_namespace() { return NAMESPACE; }
int32_t bridge_num_ops() { return 1; }
int32_t bridge_infer_dtypes(char const* name, char const* const* dtypes, char* text, int32_t size) {
  return strncpy(text, DTYPES, size), DTYPES_STATUS;
}
int32_t bridge_schema(int32_t index, char* text, int32_t size) { return strlen(strncpy(text, SCHEMA, size)); }
int32_t bridge_dtypes(int32_t index, char* text, int32_t size) { return strlen(strncpy(text, "float32", size)); }
int32_t bridge_infer_shapes(char const* op, void* fields, int32_t const* ranks, int64_t const* extents,
                            int32_t* out_ranks, int64_t* out_extents, char* message, int32_t size) {
  out_ranks[0] = ranks[0];
  for (int i = 0; i < ranks[0]; ++i) out_extents[i] = extents[ranks[0] - 1 - i];
  return 0;
}
"""


def build_stub(folder, namespace, schema, dtypes="float32", *, refuses=False, abi=LOADER_ABI):
    """The file of a library of plugins with that one op, and no plugin.

    dtypes: what it answers to the dtypes of a call; refuses: as a refusal, with that message.
    """
    values = {"NAMESPACE": f'"{namespace}"', "SCHEMA": f'"{schema}"', "DTYPES": f'"{dtypes}"'}
    defines = [f"-D{name}={value}" for name, value in (values | {"DTYPES_STATUS": int(refuses), "ABI": abi}).items()]
    library = folder / f"lib{namespace}_plugins.so"
    command = ["cc", "-shared", "-fPIC", "-x", "c", "-o", library, *defines, "-"]
    subprocess.run(command, input=STUB.encode(), check=True, capture_output=True)
    return library
