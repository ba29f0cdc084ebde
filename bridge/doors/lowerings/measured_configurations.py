"""The measurements of autotuned kernels by bridge.tune: <cache folder>/configurations.json."""

from dataclasses import dataclass

from bridge.config import Config
from bridge.doors.lowerings.measurement_file import MeasurementFile
from bridge.engine_file import checks
from bridge.generate.configurations import ALL, Selection
from bridge.tensorrt.install.flavour import Flavour


@dataclass(frozen=True)
class MeasuredConfiguration:
    """A launch of an autotuned kernel, measured with each of its configurations.

    kind: see `generate.configurations.kind_of`. index, text: of the fastest configuration; the first one if that is
    slower by no more than the noise. us: median microseconds of a run of the plugin with it; first_us: with the first
    one. measured_count: how many were measured, of `count`; the others do not fit this GPU. measured: the date.
    """

    kind: str
    index: int
    text: str
    us: float
    first_us: float
    noise_us: float
    measured_count: int
    count: int
    gpu: str
    target: str
    flavour: str
    tensorrt: str
    bridge: str
    measured: str

    @property
    def why(self) -> str:
        """The reason for the choice, in words."""
        first = "the first one" if self.us == self.first_us else f"{self.first_us:.1f} with the first one"
        return f"{self.text}: {self.us:.1f} µs a run of the plugin, {first}, of {self.measured_count} on {self.gpu}"


FILE = MeasurementFile(
    "configurations.json",
    MeasuredConfiguration,
    {
        **dict.fromkeys(("us", "first_us", "noise_us"), checks.measured),
        **dict.fromkeys(("index", "measured_count", "count"), checks.integer(0)),
        "text": checks.line,
    },
)


def selection(config: Config, flavour: Flavour, target: str, gpu: str | None) -> Selection:
    """The configurations that plugins get; arguments as for `MeasurementFile.load`."""
    if flavour.traits.measures_tactics:
        return ALL
    chosen = {kind: each.index for kind, each in FILE.load(config, flavour, target, gpu).items()}
    return Selection(chosen, tactics=False)
