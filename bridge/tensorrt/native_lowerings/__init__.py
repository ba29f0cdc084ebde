"""Native lowerings: ops as TensorRT's own layers instead of the plugin. One file per op, named like the op.

A file defines what `Native` declares; no list names it. `bridge.doors.lowerings` chooses between lowerings.
"""

import functools
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol, cast

from bridge.tensorrt.converters.layers import Layers
from bridge.tensorrt.plugins.fields import Call

PLUGIN, NATIVE = "plugin", "native"


@dataclass(frozen=True)
class Default:
    """The lowering of an op if none was requested or measured, and why."""

    lowering: str
    reason: str


class Native(Protocol):
    """What the file of an op defines."""

    DEFAULTS: Mapping[str, Default]  # by flavour

    def refusal(self, call: Call, trt: ModuleType) -> str | None:
        """Why TensorRT's own layers cannot compute a call, or None."""

    def add(self, layers: Layers, tensors: Sequence[Any | None], attributes: Mapping[str, Any]) -> tuple[Any, ...]:
        """Adds the layers and returns the op's outputs. tensors: one per tensor parameter, None if absent."""


@functools.cache
def find(op: str) -> Native | None:
    """The native lowering of an op, or None if it has none."""
    name = f"{__name__}.{op}"
    return cast(Native, importlib.import_module(name)) if importlib.util.find_spec(name) else None


def refusal(call: Call, trt: ModuleType) -> str | None:
    """Why a call cannot be lowered natively, or None."""
    native = find(call.op.name)
    return f"{call.op.name} has no native lowering" if native is None else native.refusal(call, trt)


def default(op: str, flavour: str) -> Default:
    """The lowering of an op if none was requested or measured."""
    native = find(op)
    if native is None or flavour not in native.DEFAULTS:
        return Default(PLUGIN, f"{op} has no entry for {flavour}")
    return native.DEFAULTS[flavour]


def lacks(trt: ModuleType, method: str) -> str | None:
    """The reason that this TensorRT's networks have no such method, or None."""
    if hasattr(trt.INetworkDefinition, method):
        return None
    return f"INetworkDefinition.{method} is missing in {trt.__name__} {trt.__version__}"
