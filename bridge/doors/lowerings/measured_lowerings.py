"""The measurements of bridge.tune, in one JSON file of the cache folder: <folder>/lowerings.json.

A measurement holds for one GPU name, target, TensorRT version and bridge version. The file is written atomically, by
one process at a time. A damaged file is ignored, with a warning.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bridge.base.cache_folder import folder_of
from bridge.base.files import own_folder, read_own, replacing
from bridge.base.locks import locked
from bridge.base.log import logger
from bridge.base.package import __version__
from bridge.config import Config
from bridge.engine_file import checks
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.native_lowerings import NATIVE, PLUGIN

_FORMAT = 1
_FILE_NAME = "lowerings.json"
_MAX_BYTES = 16 << 20
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


def path_of(config: Config) -> Path:
    """The path of the measurements file."""
    return folder_of(config.cache_dir) / _FILE_NAME


def load_measurements(config: Config, flavour: Flavour, target: str, gpu: str | None) -> dict[str, Measurement]:
    """The measurements for a target and this TensorRT, by kind of call; the latest of several.

    gpu: the name of the GPU, or None if the target is not this machine's: then any GPU of that target counts.
    """
    setup = (target, flavour.name, flavour.version, __version__)
    matching = [
        item
        for item in _read(path_of(config))
        if (item.target, item.flavour, item.tensorrt, item.bridge) == setup and gpu in (None, item.gpu)
    ]
    return {item.kind: item for item in sorted(matching, key=lambda item: item.measured)}


def store_measurements(config: Config, measurements: Sequence[Measurement]) -> None:
    """Adds measurements, replacing older ones of the same kind. OSError: the folder cannot be written to."""
    path = path_of(config)
    own_folder(path.parent)
    with locked(path.with_suffix(".lock"), "another process writes down what it measured"):
        merged = {_identity(item): item for item in [*_read(path), *measurements]}
        content = {"format": _FORMAT, "measurements": [asdict(item) for item in merged.values()]}
        with replacing(path, private=True) as file:
            file.write(json.dumps(content, indent=1).encode())


def _identity(item: Measurement) -> tuple[str, ...]:
    return item.kind, item.gpu, item.target, item.flavour, item.tensorrt, item.bridge


def _read(path: Path) -> list[Measurement]:
    try:
        content = json.loads(read_own(path, _MAX_BYTES).decode())
        checks.of_type(content, dict, "it")
        if content.get("format") != _FORMAT:
            checks.fail("its format", content.get("format"), str(_FORMAT))
        _MEASUREMENTS(content.get("measurements"), "measurements")
        return [Measurement(**item) for item in content["measurements"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, RecursionError, MemoryError) as error:
        what = f"{type(error).__name__}: {error}"
        logger.warning("%s is ignored, it holds no measurements (%s); bridge.tune writes a new one", path, what)
        return []


def _check_lowering(value: Any, what: str) -> None:
    if value not in (PLUGIN, NATIVE):
        checks.fail(what, value, f"{PLUGIN} or {NATIVE}")


# The fields of a measurement. A file with an unknown field is another bridge's, and is ignored.
_TIMES = ("plugin_us", "native_us", "noise_us")
_TEXTS = ("kind", "gpu", "target", "flavour", "tensorrt", "bridge", "measured")
_MEASUREMENTS = checks.sequence(
    checks.record(
        {**dict.fromkeys(_TEXTS, checks.line), **dict.fromkeys(_TIMES, checks.measured), "lowering": _check_lowering},
        {"difference": checks.measured},
    )
)
