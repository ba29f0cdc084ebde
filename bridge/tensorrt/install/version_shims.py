"""Shims for torch_tensorrt, by version: changes while it is imported and while it converts. All are undone.

Each row of SHIMS names flavours and torch_tensorrt versions; the function says what it works around. A version without
a row is left unchanged.
"""

import contextlib
import functools
import importlib.metadata
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from bridge.base.patches import add, replace, replace_everywhere
from bridge.tensorrt.install import complex_numbers, rms_norm

Version = tuple[int, ...]


@dataclass(frozen=True)
class Shim:
    """`apply(stack, trt)` for flavours named and torch_tensorrt versions `since` <= version < `until`.

    when: IMPORT, while torch_tensorrt is imported; OWN_CONVERSION, in each conversion by bridge, where torch_tensorrt's
    own compile keeps its behaviour; REGISTERED, as long as bridge is registered. Closing `stack` undoes the shim.
    """

    flavours: tuple[str, ...]
    since: Version
    until: Version
    apply: Callable[[contextlib.ExitStack, ModuleType], None]
    when: tuple[str, ...]


def hide_plugin_package(stack: contextlib.ExitStack, trt: ModuleType) -> None:
    """Hides tensorrt.plugin, which torch_tensorrt can do without.

    It looks for tensorrt.plugin._lib, and so imports tensorrt_rtx.plugin, which needs a module that the wheel lacks.
    """
    if "tensorrt.plugin" not in sys.modules:
        sys.modules["tensorrt.plugin"] = None  # type: ignore[assignment]
        stack.callback(sys.modules.pop, "tensorrt.plugin", None)


def add_algorithm_selector(stack: contextlib.ExitStack, trt: ModuleType) -> None:
    """torch_tensorrt names trt.IAlgorithmSelector in annotations; TensorRT 11 and TensorRT-RTX 1.7 removed it."""
    if not hasattr(trt, "IAlgorithmSelector"):
        add(stack, trt, "IAlgorithmSelector", type("IAlgorithmSelector", (), {}))


def add_dtype_setter(stack: contextlib.ExitStack, trt: ModuleType) -> None:
    """torch_tensorrt assigns an output the dtype it has; TensorRT 11 and TensorRT-RTX 1.7 have no setter for it."""
    dtype = trt.ITensor.dtype
    if dtype.fset is not None:
        return

    def set_dtype(tensor: Any, wanted: Any) -> None:
        if dtype.fget(tensor) != wanted:
            raise TypeError(
                f"tensor {tensor.name} is {dtype.fget(tensor)}; a strongly typed one cannot become {wanted}"
            )

    replace(stack, trt.ITensor, "dtype", property(dtype.fget, set_dtype))


def hide_cpp_runtime(stack: contextlib.ExitStack, trt: ModuleType) -> None:
    """Hides torch_tensorrt's C++ runtime if it was compiled for another TensorRT-RTX: see `other_rtx`.

    Since 2.13 the import chooses the runtime: C++ if the file of that library exists, else Python.
    """
    if "torch_tensorrt._features" in sys.modules or other_rtx(trt.__version__) is None:  # too late, or not needed
        return
    isfile = os.path.isfile
    replace(stack, os.path, "isfile", lambda path: not _CPP_RUNTIME.search(str(path)) and isfile(path))


_CPP_RUNTIME = re.compile(r"torch_tensorrt/lib/libtorchtrt(_runtime)?\.so$")


def other_rtx(version: str) -> str | None:
    """The TensorRT-RTX that torch_tensorrt's C++ runtime was compiled for, if that is not `version`; else None.

    The C++ interface changes with each minor version. The runtime of 2.11, compiled for 1.3, crashed with 1.6.1
    (SIGSEGV) when it loaded an engine. The Python runtime ran it.
    """
    try:
        distribution = importlib.metadata.distribution("torch-tensorrt-rtx")
        text = Path(str(distribution.locate_file("torch_tensorrt/_version.py"))).read_text()
    except (importlib.metadata.PackageNotFoundError, OSError):
        return None
    compiled_for = re.search(r'__tensorrt_rtx_version__ = "(\d+\.\d+)([^"]*)"', text)
    if compiled_for is None or version.startswith(f"{compiled_for[1]}."):
        return None
    return compiled_for[1] + compiled_for[2]


def keep_dtypes_in_where(stack: contextlib.ExitStack, trt: ModuleType) -> None:
    """torch_tensorrt's converter of aten.where casts int64 tensors to int32; before 2.14, two bfloat16 ones too."""
    from torch_tensorrt.dynamo.conversion.impl.condition import ops

    promote = ops.promote_trt_tensors_to_same_dtype

    @functools.wraps(promote)
    def promote_if_different(ctx: Any, lhs: Any, rhs: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if in_own_conversion():
            lhs, rhs = _widened(trt, ctx, lhs, rhs), _widened(trt, ctx, rhs, lhs)
            if lhs.dtype == rhs.dtype:
                return lhs, rhs
        return promote(ctx, lhs, rhs, *args, **kwargs)

    replace(stack, ops, "promote_trt_tensors_to_same_dtype", promote_if_different)


def keep_scalars_wide(stack: contextlib.ExitStack, trt: ModuleType) -> None:
    """torch_tensorrt casts an int64 tensor without dimensions to int32 beside an int32 tensor with some.

    PyTorch does so too. But where a model has two int64 tensors, the network may have one of 32 bits.
    """
    from torch_tensorrt.dynamo.conversion.impl.elementwise import base

    original = base.convert_binary_elementwise

    @functools.wraps(original)
    def convert(ctx: Any, target: Any, source_ir: Any, name: str, op_type: Any, lhs_val: Any, rhs_val: Any) -> Any:
        if in_own_conversion():
            lhs_val, rhs_val = _widened(trt, ctx, lhs_val, rhs_val), _widened(trt, ctx, rhs_val, lhs_val)
        return original(ctx, target, source_ir, name, op_type, lhs_val, rhs_val)

    replace_everywhere(stack, "torch_tensorrt.dynamo.conversion", original, convert)


def _widened(trt: ModuleType, ctx: Any, x: Any, other: Any) -> Any:
    """x as int64, if it is an int32 tensor of the network beside an int64 one or an int64 constant; else x.

    The operands of the model have one dtype. Some layers, such as the indices of a top-k, have 32 bits for its 64.
    """
    is_narrow = isinstance(x, trt.ITensor) and x.dtype == trt.DataType.INT32
    if not is_narrow or getattr(other, "dtype", None) not in (trt.DataType.INT64, torch.int64):
        return x
    return ctx.net.add_cast(x, trt.DataType.INT64).get_output(0)


IMPORT, OWN_CONVERSION, REGISTERED = "import", "own conversion", "registered"  # when a shim applies
_RTX, _BOTH = ("tensorrt_rtx",), ("tensorrt", "tensorrt_rtx")
_ANY = (1_000_000,)  # every later version
SHIMS = (
    Shim(_RTX, (2, 11), (2, 12), hide_plugin_package, (IMPORT,)),
    Shim(_BOTH, (2, 11), (2, 12), add_algorithm_selector, (IMPORT,)),
    Shim(_BOTH, (2, 11), (2, 13), add_dtype_setter, (OWN_CONVERSION, REGISTERED)),
    Shim(_RTX, (2, 13), _ANY, hide_cpp_runtime, (IMPORT,)),
    Shim(_BOTH, (2, 11), _ANY, keep_dtypes_in_where, (OWN_CONVERSION,)),
    Shim(_BOTH, (2, 12), _ANY, keep_scalars_wide, (OWN_CONVERSION,)),
    Shim(_BOTH, (2, 14), _ANY, complex_numbers.keep_beside_unknown_operators, (OWN_CONVERSION,)),
    Shim(_BOTH, (2, 11), _ANY, rms_norm.compute_in_float32, (OWN_CONVERSION, REGISTERED)),
)


def shims_for(flavour: str, torch_tensorrt: Version) -> list[Shim]:
    """The rows that apply to a torch_tensorrt version of one flavour."""
    return [shim for shim in SHIMS if flavour in shim.flavours and shim.since <= torch_tensorrt < shim.until]


@contextlib.contextmanager
def applied(shims: Iterable[Shim], trt: Callable[[], ModuleType]) -> Iterator[None]:
    """The context in which these shims apply. `trt` imports TensorRT; it is called only if there is a shim."""
    with contextlib.ExitStack() as stack:
        for shim in shims:
            shim.apply(stack, trt())
        yield


_thread = threading.local()


def in_own_conversion() -> bool:
    """Whether this thread is in a conversion by bridge."""
    return getattr(_thread, "depth", 0) > 0


@contextlib.contextmanager
def own_conversion() -> Iterator[None]:
    """The context that marks a conversion by bridge."""
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1
