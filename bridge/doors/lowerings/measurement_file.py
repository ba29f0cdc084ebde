"""What was measured on GPUs, in JSON files of the cache folder.

A measurement holds for one GPU name, target, TensorRT version and bridge version. A file is written atomically, by one
process at a time. A damaged file is ignored, with a warning.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch

from bridge.base.cache_folder import folder_of
from bridge.base.files import own_folder, read_own, replacing
from bridge.base.locks import locked
from bridge.base.log import logger
from bridge.base.package import __version__
from bridge.config import Config
from bridge.engine_file import checks
from bridge.tensorrt.install.flavour import Flavour

_FORMAT = 1
_MAX_BYTES = 16 << 20


class Measured(Protocol):
    """What every measurement says, a frozen dataclass: of what, where, with what and when."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def kind(self) -> str:
        """Of what was measured, in words."""

    @property
    def gpu(self) -> str:
        """Its name."""

    @property
    def target(self) -> str:
        """Of the engines that were timed."""

    @property
    def flavour(self) -> str:
        """Of TensorRT."""

    @property
    def tensorrt(self) -> str:
        """Its version."""

    @property
    def bridge(self) -> str:
        """Its version."""

    @property
    def measured(self) -> str:
        """The date."""


def setup_of(flavour: Flavour, target: str) -> dict[str, str]:
    """The fields of a measurement that is made now on this machine's GPU, but for its kind."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "target": target,
        "flavour": flavour.name,
        "tensorrt": flavour.version,
        "bridge": __version__,
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


_TEXTS = ("kind", "gpu", "target", "flavour", "tensorrt", "bridge", "measured")
_M = TypeVar("_M", bound=Measured)


class MeasurementFile(Generic[_M]):
    """One file. row: the class of its measurements; fields, optional: checks of the fields that it adds.

    A file with an unknown field is another bridge's, and is ignored.
    """

    def __init__(
        self,
        name: str,
        row: type[_M],
        fields: Mapping[str, checks.Check],
        optional: Mapping[str, checks.Check] | None = None,
    ) -> None:
        self._name = name
        self._row = row
        required = {**dict.fromkeys(_TEXTS, checks.line), **fields}
        self._check = checks.sequence(checks.record(required, dict(optional or {})))

    def path_of(self, config: Config) -> Path:
        """Where it is."""
        return folder_of(config.cache_dir) / self._name

    def load(self, config: Config, flavour: Flavour, target: str, gpu: str | None) -> dict[str, _M]:
        """The measurements for a target and this TensorRT, by kind; the latest of several.

        gpu: the name of the GPU, or None if the target is not this machine's: then any GPU of that target counts.
        """
        setup = (target, flavour.name, flavour.version, __version__)
        matching = [
            item
            for item in self._read(self.path_of(config))
            if (item.target, item.flavour, item.tensorrt, item.bridge) == setup and gpu in (None, item.gpu)
        ]
        return {item.kind: item for item in sorted(matching, key=lambda item: item.measured)}

    def store(self, config: Config, measurements: Sequence[_M]) -> None:
        """Adds measurements, replacing older ones of the same kind. OSError: the folder cannot be written to."""
        path = self.path_of(config)
        own_folder(path.parent)
        with locked(path.with_suffix(".lock"), "another process writes down what it measured"):
            merged = {_identity(item): item for item in [*self._read(path), *measurements]}
            content = {"format": _FORMAT, "measurements": [asdict(item) for item in merged.values()]}
            with replacing(path, private=True) as file:
                file.write(json.dumps(content, indent=1).encode())

    def _read(self, path: Path) -> list[_M]:
        try:
            content: Any = json.loads(read_own(path, _MAX_BYTES).decode())
            checks.of_type(content, dict, "it")
            if content.get("format") != _FORMAT:
                checks.fail("its format", content.get("format"), str(_FORMAT))
            self._check(content.get("measurements"), "measurements")
            return [self._row(**item) for item in content["measurements"]]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, RecursionError, MemoryError) as error:
            what = f"{type(error).__name__}: {error}"
            logger.warning("%s is ignored, it holds no measurements (%s); bridge.tune writes a new one", path, what)
            return []


def _identity(item: Measured) -> tuple[str, ...]:
    return item.kind, item.gpu, item.target, item.flavour, item.tensorrt, item.bridge
