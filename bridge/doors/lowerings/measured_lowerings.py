"""The measurements of lowerings by bridge.tune: <cache folder>/lowerings.json."""

from dataclasses import dataclass
from typing import Any

from bridge.doors.lowerings.measurement_file import MeasurementFile
from bridge.engine_file import checks
from bridge.tensorrt.native_lowerings import NATIVE, PLUGIN

ROUNDING = 0.1  # of the largest value; wrongly fused layers of TensorRT-RTX 1.6.1 were off by 1.6


@dataclass(frozen=True)
class Measurement:
    """One kind of call, measured in a model with both lowerings.

    kind: see lowering_choice.call_kind. plugin_us, native_us: median microseconds of a run of the whole engine.
    noise_us: differences up to this are noise. lowering: the faster one; the default for differences within the noise;
    the plugin if the results disagree. measured: the date. difference: of the two engines' results, as a fraction of
    the largest value.
    """

    kind: str
    lowering: str
    plugin_us: float
    native_us: float
    noise_us: float
    gpu: str
    target: str
    flavour: str
    tensorrt: str
    bridge: str
    measured: str
    difference: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether both engines' results are equal but for rounding."""
        return self.difference <= ROUNDING

    @property
    def tie(self) -> bool:
        """Whether the times differ by no more than the noise."""
        return abs(self.plugin_us - self.native_us) <= self.noise_us

    @property
    def why(self) -> str:
        """The reason for the choice, in words."""
        times = {PLUGIN: self.plugin_us, NATIVE: self.native_us}
        other = NATIVE if self.lowering == PLUGIN else PLUGIN
        note = ", within the noise: the default" if self.tie else ""
        if not self.agrees:
            note = f"; native layers gave other results, by {self.difference:.2g} of the largest value: the plugin"
        return (
            f"measured {times[self.lowering]:.1f} µs a run of the engine, {times[other]:.1f} µs as {other}, "
            f"on {self.gpu}{note}"
        )


def _check_lowering(value: Any, what: str) -> None:
    if value not in (PLUGIN, NATIVE):
        checks.fail(what, value, f"{PLUGIN} or {NATIVE}")


FILE = MeasurementFile(
    "lowerings.json",
    Measurement,
    {**dict.fromkeys(("plugin_us", "native_us", "noise_us"), checks.measured), "lowering": _check_lowering},
    {"difference": checks.measured},
)
