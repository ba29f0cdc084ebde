"""The engine file: TensorRT's engine bytes with all that is needed to explain, check and run them.

The classes here say what it holds, and check it wherever it comes from; container.py says how it lies on disk.
Keys of a header that a reader does not know are ignored.
"""

import os
from dataclasses import asdict, dataclass, field
from typing import Any

from bridge.errors import EngineFileError
from bridge.tensorrt import container, dtypes

DTYPES = tuple(row.name for row in dtypes.DTYPES)

_INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class TensorSpec:
    """An input of an engine: its dtype and, for each dimension, the least, tuned and greatest extent."""

    name: str
    dtype: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_tensor(self, "input")
        for bound in ("min", "opt", "max"):
            _check_extents(getattr(self, bound), 0, f"input {self.name!r}: {bound}")
        if not len(self.min) == len(self.opt) == len(self.max):
            raise EngineFileError(f"input {self.name!r}: ranks differ: min {self.min}, opt {self.opt}, max {self.max}")
        if not all(low <= mid <= high for low, mid, high in zip(self.min, self.opt, self.max, strict=True)):
            raise EngineFileError(
                f"input {self.name!r}: not min <= opt <= max: min {self.min}, opt {self.opt}, max {self.max}"
            )

    @property
    def dynamic(self) -> bool:
        """Whether any extent may vary."""
        return self.min != self.max


@dataclass(frozen=True)
class OutputSpec:
    """An output of an engine; -1 in its shape is an extent that depends on the inputs' shapes."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_tensor(self, "output")
        _check_extents(self.shape, -1, f"output {self.name!r}: shape")


@dataclass(frozen=True)
class EngineFile:
    """An engine and everything known about it.

    A layer has "name", "type" and, as far as known, "op", "attributes", "inputs" (names) and "outputs" (name, dtype,
    shape). `plugins` is op name → plugin version. `in_spec` and `out_spec` are pytrees, as treespec_dumps writes them.
    `layers`, `output_map` and `metadata` hold JSON values only: a tuple comes back as a list. For each leaf of the
    model's output, `output_map` has the index of an engine output, {"literal": value} or {"input": index}.
    """

    engine: bytes = field(repr=False)
    flavour: str
    tensorrt_version: str
    target: str
    plugins: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[OutputSpec, ...]
    layers: list[dict[str, Any]] = field(repr=False)
    in_spec: str = field(repr=False)
    out_spec: str = field(repr=False)
    output_map: list[Any]
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        for name, kind in _FIELD_TYPES.items():
            _check_type(getattr(self, name), kind, name)
        _check_items(self.inputs, TensorSpec, "inputs")
        _check_items(self.outputs, OutputSpec, "outputs")
        _check_items(self.layers, dict, "layers")
        _check_items([layer.get("name") for layer in self.layers], str, "the name of layers")
        _check_items([layer.get("type") for layer in self.layers], str, "the type of layers")
        _check_items(self.plugins.values(), str, "plugins")
        for leaf, entry in enumerate(self.output_map):
            self._check_output_entry(leaf, entry)

    def _check_output_entry(self, leaf: int, entry: Any) -> None:
        match entry:
            case bool():
                valid = False
            case int():
                valid = 0 <= entry < len(self.outputs)
            case {"input": int(index)} if len(entry) == 1:
                valid = 0 <= index < len(self.inputs)
            case {"literal": None | bool() | int() | float() | str()}:
                valid = len(entry) == 1
            case _:
                valid = False
        if not valid:
            raise EngineFileError(
                f"output_map[{leaf}] is {entry!r}; expected the index of one of {len(self.outputs)} outputs, "
                f'{{"input": index of one of {len(self.inputs)} inputs}} or {{"literal": value}}'
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all: an existing file at `path` stays until the new one is complete."""
        header = {name: getattr(self, name) for name in _FIELD_TYPES if name != "engine"}
        header["inputs"] = [asdict(spec) for spec in self.inputs]
        header["outputs"] = [asdict(spec) for spec in self.outputs]
        container.write(path, header, self.engine)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "EngineFile":
        """Read and check a file; EngineFileError says what is wrong with it."""
        try:
            return cls._from_header(*container.read(path))
        except EngineFileError as error:
            raise EngineFileError(f"{path}: {error}") from error.__cause__

    @classmethod
    def _from_header(cls, header: dict[str, Any], engine: bytes) -> "EngineFile":
        fields = {name: header[name] for name in _FIELD_TYPES if name != "engine" and name in header}
        missing = [name for name in _FIELD_TYPES if name != "engine" and name not in header]
        if missing:
            raise EngineFileError(f"bad header: it lacks {', '.join(missing)}")
        try:
            fields["inputs"] = _specs(TensorSpec, header["inputs"], "inputs")
            fields["outputs"] = _specs(OutputSpec, header["outputs"], "outputs")
            return cls(engine=engine, **fields)
        except EngineFileError as error:
            raise EngineFileError(f"bad header: {error}") from error


_FIELD_TYPES: dict[str, type] = {
    "engine": bytes,
    "flavour": str,
    "tensorrt_version": str,
    "target": str,
    "plugins": dict,
    "inputs": tuple,
    "outputs": tuple,
    "layers": list,
    "in_spec": str,
    "out_spec": str,
    "output_map": list,
    "metadata": dict,
}


def _check_type(value: Any, kind: type, what: str) -> None:
    if not isinstance(value, kind):
        raise EngineFileError(f"{what} must be {kind.__name__}, not {type(value).__name__}")


def _check_items(values: Any, kind: type, what: str) -> None:
    for index, value in enumerate(values):
        _check_type(value, kind, f"{what}[{index}]")


def _check_tensor(spec: TensorSpec | OutputSpec, what: str) -> None:
    _check_type(spec.name, str, f"the name of an {what}")
    _check_type(spec.dtype, str, f"{what} {spec.name!r}: dtype")
    if spec.dtype not in DTYPES:
        raise EngineFileError(f"{what} {spec.name!r}: dtype {spec.dtype!r} is none of {', '.join(DTYPES)}")


def _check_extents(extents: Any, least: int, what: str) -> None:
    _check_type(extents, tuple, what)
    for extent in extents:
        if type(extent) is not int or not least <= extent <= _INT64_MAX:
            raise EngineFileError(f"{what} is {extents}; every extent must be an integer of at least {least}")


def _specs(kind: type, entries: Any, what: str) -> tuple[Any, ...]:
    _check_type(entries, list, what)
    return tuple(_spec(kind, entry, f"{what}[{index}]") for index, entry in enumerate(entries))


def _spec(kind: type, entry: Any, what: str) -> Any:
    _check_type(entry, dict, what)
    names = tuple(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    missing = [name for name in names if name not in entry]
    if missing:
        raise EngineFileError(f"{what} lacks {', '.join(missing)}")
    values = {name: entry[name] for name in names}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
