"""Which lowering each call of an op gets, and why.

What the setting asks for comes first, then what bridge.tune measured on this kind of GPU, then the default that
`bridge.tensorrt.native_lowerings.<op>.DEFAULTS` gives a reason for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge.config import Config
from bridge.doors.measured_lowerings import Measurement
from bridge.errors import UnsupportedOpError
from bridge.tensorrt import native_lowerings
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.native_lowerings import NATIVE, PLUGIN
from bridge.tensorrt.plugins.fields import Call

_ASKED = "asked for"


@dataclass(frozen=True)
class Choice:
    """The lowering of one call. kind: what measurements are remembered under, see `kind_of`."""

    node: str
    op: str
    kind: str
    lowering: str
    why: str


def choose(
    calls: Sequence[Call], config: Config, flavour: Flavour, measured: Mapping[str, Measurement]
) -> list[Choice]:
    """The lowering of every call, in order. UnsupportedOpError: the setting asks for one that a call cannot have."""
    found = [_choose(call, config, flavour, measured) for call in calls]
    return [Choice(call.name, call.op.name, kind_of(call), *pair) for call, pair in zip(calls, found, strict=True)]


def kind_of(call: Call) -> str:
    """The op, its attributes, and dtypes and shapes of its tensors, with every extent rounded up to a power of two."""
    tensors = [
        f"{name}: {tensor[0].name}{[_round_up(extent) for extent in tensor[1]]}"
        for name, tensor in zip(call.op.tensors, call.tensors, strict=True)
        if tensor is not None
    ]
    attributes = [f"{name}={_spell(value)}" for name, value in call.attributes.items()]
    return f"{call.op.name}({', '.join(tensors + attributes)})"


def _choose(call: Call, config: Config, flavour: Flavour, measured: Mapping[str, Measurement]) -> tuple[str, str]:
    asked = config.lowering_of(call.op.name)
    if asked == PLUGIN:
        return PLUGIN, _ASKED
    reason = native_lowerings.refuse(call, flavour.trt())
    if asked == NATIVE:
        if reason is not None:
            raise UnsupportedOpError(_refusal(call.op.name, reason, call.line))
        return NATIVE, _ASKED
    if reason is not None:
        return PLUGIN, f"the only one here: {reason}"
    known = measured.get(kind_of(call))
    if known is not None:
        return known.lowering, known.why
    default = native_lowerings.default(call.op.name, flavour.name)
    return default.lowering, f"the default: {default.reason}"


def _refusal(op: str, reason: str, line: str) -> str:
    return (
        f'{op}: lowering "native" is asked for, but {reason}; {line or "at an unknown line"}\nPass'
        f' lowering={{"{op}": "plugin"}} for bridge\'s kernel, or "auto", which takes it where there is no other.'
    )


def _round_up(extent: int) -> int:
    return 1 << (extent - 1).bit_length() if extent > 0 else 0


def _spell(value: object) -> str:
    return str(list(value) if isinstance(value, tuple) else value)
