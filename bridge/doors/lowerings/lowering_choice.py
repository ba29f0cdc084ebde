"""Chooses the lowering of each call of an op, with the reason.

The setting decides first, then what bridge.tune measured on this GPU model, then the default in
`bridge.tensorrt.native_lowerings.<op>.DEFAULTS`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.config import Config
from bridge.doors.lowerings.measured_lowerings import Measurement
from bridge.errors import UnsupportedOpError
from bridge.tensorrt import native_lowerings
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.native_lowerings import NATIVE, PLUGIN
from bridge.tensorrt.plugins.fields import Call

_REQUESTED = "requested"


@dataclass(frozen=True)
class Choice:
    """The lowering of one call. kind: the key of its measurements, see `call_kind`."""

    node: str
    op: str
    kind: str
    lowering: str
    why: str


def choose(
    calls: Sequence[Call], config: Config, flavour: Flavour, measured: Mapping[str, Measurement]
) -> list[Choice]:
    """The lowering of every call, in order. UnsupportedOpError: the setting requests one that a call cannot have."""
    pairs = [_choose_one(call, config, flavour, measured) for call in calls]
    return [Choice(call.name, call.op.name, call_kind(call), *pair) for call, pair in zip(calls, pairs, strict=True)]


def call_kind(call: Call) -> str:
    """The op with its attributes, dtypes and shapes; every extent is rounded up to a power of two."""
    tensors = [
        f"{name}: {tensor[0].name}{[_round_up(extent) for extent in tensor[1]]}"
        for name, tensor in zip(call.op.tensors, call.tensors, strict=True)
        if tensor is not None
    ]
    attributes = [f"{name}={_attribute_text(value)}" for name, value in call.attributes.items()]
    return f"{call.op.name}({', '.join(tensors + attributes)})"


def _choose_one(call: Call, config: Config, flavour: Flavour, measured: Mapping[str, Measurement]) -> tuple[str, str]:
    requested = config.lowering_of(call.op.name)
    if requested == PLUGIN:
        return PLUGIN, _REQUESTED
    reason = native_lowerings.refusal(call, flavour.trt())
    if requested == NATIVE:
        if reason is not None:
            raise UnsupportedOpError(_no_native_text(call.op.name, reason, call.line))
        return NATIVE, _REQUESTED
    if reason is not None:
        return PLUGIN, f"the only one possible: {reason}"
    measurement = measured.get(call_kind(call))
    if measurement is not None:
        return measurement.lowering, measurement.why
    default = native_lowerings.default(call.op.name, flavour.name)
    return default.lowering, f"the default: {default.reason}"


def _no_native_text(op: str, reason: str, line: str) -> str:
    return (
        f'{op}: lowering "native" is requested, but {reason}; {line or "at an unknown line"}\nPass'
        f' lowering={{"{op}": "plugin"}} for bridge\'s kernel, or "auto", which falls back to it.'
    )


def _round_up(extent: int) -> int:
    return 1 << (extent - 1).bit_length() if extent > 0 else 0


def _attribute_text(value: object) -> str:
    return str(list(value) if isinstance(value, tuple) else value)
