"""The engine file: TensorRT's engine bytes with all that is needed to explain, check and run them.

The classes define the contents, and check them from any source: users rely on their types and bounds. container.py
defines the layout on disk. Unknown keys of a header are ignored.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bridge.engine_file import checks, container, dtypes, generated_rows, pytrees
from bridge.engine_file.pytrees import Tree
from bridge.errors import EngineFileError

DTYPES = tuple(row.name for row in dtypes.DTYPES)

_MOST_DIMENSIONS = 64
_TENSOR = checks.record(
    {"name": checks.text, "dtype": checks.name, "shape": checks.sequence(checks.integer(-1), _MOST_DIMENSIONS)}
)
_LAYER = checks.record(
    {"name": checks.text, "type": checks.word},
    {
        "op": checks.optional(checks.word),
        "attributes": checks.mapping(checks.scalar_or_list),
        "inputs": checks.sequence(checks.text),
        "outputs": checks.sequence(_TENSOR),
    },
)
_NODE = {"name": checks.text, "op": checks.name, "module": checks.text, "layers": checks.sequence(checks.text)}
_LOWERING = {"node": checks.text, "op": checks.name, "kind": checks.text, "lowering": checks.name, "why": checks.text}
_PASS = {
    "pass": checks.name,
    "replaced": checks.flag,
    "what": checks.text,
    "line": checks.text,
    "module": checks.text,
}
# The metadata that bridge writes, all optional. Other keys are kept, but not read.
_METADATA: dict[str, checks.Check] = {
    "model": checks.optional(checks.text),
    "parameters": checks.optional(checks.integer(0)),
    "bridge": checks.optional(checks.name),
    "torch": checks.optional(checks.name),
    "torch_tensorrt": checks.optional(checks.name),
    "build_seconds": checks.optional(checks.seconds),
    "cache_key": checks.name,
    "arguments": checks.sequence(checks.name),
    "input_map": checks.of(list),
    "extents": checks.mapping(checks.sequence(checks.scalar, _MOST_DIMENSIONS)),
    "nodes": checks.sequence(checks.record(_NODE)),
    "lowerings": checks.sequence(checks.record(_LOWERING)),
    "passes": checks.sequence(checks.record(_PASS)),
    "generated": checks.sequence(generated_rows.check),
    "embedded": checks.flag,
    "libraries": checks.sequence(checks.record(dict.fromkeys(("namespace", "file", "sha256", "origin"), checks.name))),
}


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

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents, with -1 for one that may vary."""
        return tuple(low if low == high else -1 for low, high in zip(self.min, self.max, strict=True))


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
    shape). `plugins` is op name → plugin version. `in_spec` and `out_spec` say which containers hold the leaves of
    ((arguments), {keyword arguments}) and of the result. `layers`, `output_map` and `metadata` hold JSON values only: a
    tuple comes back as a list. For each leaf of the model's output, `output_map` has the index of an engine output,
    {"literal": value} or {"input": index}.
    """

    engine: bytes = field(repr=False)
    flavour: str
    tensorrt_version: str
    target: str
    plugins: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[OutputSpec, ...]
    layers: list[dict[str, Any]] = field(repr=False)
    in_spec: Tree = field(repr=False)
    out_spec: Tree = field(repr=False)
    output_map: list[Any]
    metadata: dict[str, Any]

    def __post_init__(self) -> None:
        for name, check in _FIELDS.items():
            check(getattr(self, name), name)
        for leaf, entry in enumerate(self.output_map):
            _check_output(entry, f"output_map[{leaf}]", len(self.inputs), len(self.outputs))
        _check_count("output_map", self.output_map, self.out_spec)
        checks.record({}, _METADATA)(self.metadata, "metadata")
        if "input_map" in self.metadata:
            _check_arguments(self.metadata, self.in_spec, len(self.inputs))

    @property
    def embeds_libraries(self) -> bool:
        """Whether the engine holds the plugin libraries that it needs."""
        return bool(self.metadata.get("embedded", False))

    def save(self, path: str | os.PathLike[str], private: bool = False) -> None:
        """Writes the file atomically: an existing file at `path` stays until the new one is complete.

        private: no other user may read it.
        """
        header = {name: getattr(self, name) for name in _FIELDS if name != "engine"}
        for name in ("inputs", "outputs"):
            header[name] = [asdict(spec) for spec in header[name]]
        for name in ("in_spec", "out_spec"):
            header[name] = header[name].as_json()
        container.write(path, header, self.engine, private)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "EngineFile":
        """Reads and checks a file. EngineFileError: the file is invalid; the message has the fault."""
        try:
            return cls._from_header(*container.read(path))
        except EngineFileError as error:
            raise EngineFileError(f"{path}: {error}") from error.__cause__

    @classmethod
    def _from_header(cls, header: dict[str, Any], engine: bytes) -> "EngineFile":
        fields = {name: header[name] for name in _FIELDS if name != "engine" and name in header}
        missing = [name for name in _FIELDS if name != "engine" and name not in header]
        if missing:
            raise EngineFileError(f"bad header: it lacks {', '.join(missing)}")
        try:
            fields["inputs"] = _specs(TensorSpec, header["inputs"], "inputs")
            fields["outputs"] = _specs(OutputSpec, header["outputs"], "outputs")
            fields["in_spec"] = pytrees.of_json(header["in_spec"], "in_spec")
            fields["out_spec"] = pytrees.of_json(header["out_spec"], "out_spec")
            checks.of_type(header["metadata"], dict, "metadata")
            for name in header["metadata"].keys() - _METADATA.keys():
                checks.plain(header["metadata"][name], f"metadata[{checks.shown(name)}]")
            return cls(engine=engine, **fields)
        except EngineFileError as error:
            raise EngineFileError(f"bad header: {error}") from error


def _tuple_of(kind: type) -> checks.Check:
    def check(values: Any, what: str) -> None:
        checks.of_type(values, tuple, what)
        checks.sequence(checks.of(kind))(values, what)

    return check


_FIELDS: dict[str, checks.Check] = {
    "engine": checks.of(bytes),
    "flavour": checks.name,
    "tensorrt_version": checks.name,
    "target": checks.name,
    "plugins": checks.mapping(checks.name),
    "inputs": _tuple_of(TensorSpec),
    "outputs": _tuple_of(OutputSpec),
    "layers": checks.sequence(_LAYER),
    "in_spec": checks.of(Tree),
    "out_spec": checks.of(Tree),
    "output_map": checks.of(list),
    "metadata": checks.of(dict),
}


def _check_output(entry: Any, what: str, inputs: int, outputs: int) -> None:
    match entry:
        case bool():
            valid = False
        case int():
            valid = 0 <= entry < outputs
        case {"input": int(index)} if len(entry) == 1 and not isinstance(index, bool):
            valid = 0 <= index < inputs
        case {"literal": None | bool() | int() | float() | str() as value} if len(entry) == 1:
            checks.scalar(value, what)
            valid = True
        case _:
            valid = False
    if not valid:
        checks.fail(
            what,
            entry,
            f"the index of one of {outputs} outputs, "
            f'{{"input": index of one of {inputs} inputs}} or {{"literal": value}}',
        )


def _check_input(entry: Any, what: str) -> None:
    match entry:
        case {"literal": None | bool() | int() | float() | str() as value} if len(entry) == 1:
            checks.scalar(value, what)
        case {"unused": True} if len(entry) == 1:
            pass
        case _:
            checks.fail(what, entry, 'the index of an input, {"literal": value} or {"unused": true}')


def _check_arguments(metadata: Mapping[str, Any], in_spec: Tree, inputs: int) -> None:
    """EngineFileError: a leaf of the arguments lacks its entry, an input its leaf, or an argument its name."""
    entries, names = metadata["input_map"], metadata.get("arguments", [])
    indices = [entry for entry in entries if type(entry) is int]
    for leaf, entry in enumerate(entries):
        if type(entry) is not int:
            _check_input(entry, f"input_map[{leaf}]")
    if sorted(indices) != list(range(inputs)):
        checks.fail("input_map", entries, f"the index of each of {inputs} inputs, once")
    _check_count("input_map", entries, in_spec)
    if [child.kind for child in in_spec.children] not in (["tuple", "dict"], ["list", "dict"]):
        checks.fail("in_spec", in_spec, "a tuple of the arguments and the dict of the keyword arguments")
    positional, keywords = in_spec.children
    expected = len(positional.children) + len(keywords.children)
    if len(names) != expected or len(set(names)) != expected:
        checks.fail("arguments", names, f"{expected} names, one for each argument")
    if tuple(names[len(positional.children) :]) != keywords.context:
        checks.fail("arguments", names, f"the names of the keyword arguments, {checks.shown(keywords.context)}, last")


def _check_count(what: str, entries: list[Any], tree: Tree) -> None:
    if len(entries) != tree.leaves:
        checks.fail(f"the length of {what}", len(entries), f"{tree.leaves}, the leaves of its pytree")


def _check_tensor(spec: TensorSpec | OutputSpec, what: str) -> None:
    checks.name(spec.name, f"the name of an {what}")
    checks.of_type(spec.dtype, str, f"{what} {spec.name!r}: dtype")
    if spec.dtype not in DTYPES:
        raise EngineFileError(f"{what} {spec.name!r}: dtype {checks.shown(spec.dtype)} is none of {', '.join(DTYPES)}")


def _check_extents(extents: Any, least: int, what: str) -> None:
    checks.of_type(extents, tuple, what)
    if len(extents) > _MOST_DIMENSIONS:
        checks.fail(f"the rank of {what}", len(extents), f"at most {_MOST_DIMENSIONS}")
    for extent in extents:
        if type(extent) is not int or not least <= extent <= checks.INT64_MAX:
            raise EngineFileError(
                f"{what} is {checks.shown(extents)}; every extent must be an integer of at least {least}"
            )


def _specs(kind: type, entries: Any, what: str) -> tuple[Any, ...]:
    checks.of_type(entries, list, what)
    return tuple(_spec(kind, entry, f"{what}[{index}]") for index, entry in enumerate(entries))


def _spec(kind: type, entry: Any, what: str) -> Any:
    checks.of_type(entry, dict, what)
    names = tuple(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    missing = [name for name in names if name not in entry]
    if missing:
        raise EngineFileError(f"{what} lacks {', '.join(missing)}")
    values = {name: entry[name] for name in names}
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
