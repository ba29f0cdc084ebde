"""bridge compiles PyTorch models whose operators TensorRT does not know.

An op is defined once (``bridge/ops``) and is then a PyTorch op and a TensorRT plugin; :func:`compile` turns a model
that uses it into one TensorRT engine. Importing this package imports torch, and neither TensorRT nor torch_tensorrt.
"""

import importlib
from typing import Any

from bridge import errors
from bridge.base import interrupts, log
from bridge.base.modules import modules_below
from bridge.base.package import __version__ as __version__
from bridge.core.binding import bind
from bridge.core.op import OPS, Counted, Pair, only_shapes, op, readable, require, unknown_extent
from bridge.core.tensors import Bytes, Floating, Index, LikeFirst, LikeFirstOrFloat32, Mask
from bridge.errors import BridgeError

log.show_as_asked()

with interrupts.deferred():  # an op that is half defined cannot be defined again
    for _name, _module in modules_below("bridge.ops"):
        globals()[_name] = getattr(_module, _name)

    from bridge.core import libraries as native  # noqa: F401
    from bridge.doors.torch_tensorrt_door import cross_compile, register, unregister

    register()

# Imported on first use: they need TensorRT's Python packages only when called, but cost time to import.
_LAZY = {
    "compile": "bridge.doors.compiler",
    "export_onnx": "bridge.export.onnx.export",
    "onnx_reference_ops": "bridge.export.onnx.reference",
    "load": "bridge.engine.compiled",
    "CompiledModule": "bridge.engine.compiled",
    "Config": "bridge.config",
    "OnnxFile": "bridge.export.onnx.result",
    "Report": "bridge.doors.reporting",
    "report": "bridge.doors.reporting",
    "load_ops": "bridge.toolchain.load",
    "tune": "bridge.doors.lowerings.tuner",
    "Tuning": "bridge.doors.lowerings.tuner",
}

__all__ = [
    "OPS",
    "BridgeError",
    "Bytes",
    "CompiledModule",
    "Config",
    "Counted",
    "Floating",
    "Index",
    "LikeFirst",
    "LikeFirstOrFloat32",
    "Mask",
    "OnnxFile",
    "Pair",
    "Report",
    "Tuning",
    "bind",
    "compile",
    "cross_compile",
    "errors",
    "export_onnx",
    "load",
    "load_ops",
    "onnx_reference_ops",
    "only_shapes",
    "op",
    "readable",
    "register",
    "report",
    "require",
    "tune",
    "unknown_extent",
    "unregister",
    *OPS,
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'bridge' has no attribute {name!r}")
    with interrupts.deferred():
        value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
