"""Damaged and hostile engine files: whatever one holds, only documented errors come out of it.

Valid files are changed in their structure, with the checksum made right again, or byte by byte; then everything that
reads engine files reads them. `run` counts what came of it and raises for the first that is not documented.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import random
import struct
import sys
import tempfile
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from pathlib import Path
from typing import Any

import torch
from generated_row import GENERATED
from torch.utils import _pytree as pytree

import bridge
from bridge.base.text import as_json
from bridge.cli import main
from bridge.engine.call_structure import CallStructure
from bridge.engine.compiled import CompiledModule
from bridge.engine.explain import as_json_values
from bridge.engine.report import page
from bridge.engine_file import container, pytrees
from bridge.engine_file.contents import EngineFile, OutputSpec, TensorSpec
from bridge.errors import EngineError, EngineFileError, EngineInputError

Point = namedtuple("Point", ["x", "y"])


@dataclasses.dataclass
class Boxes:
    corners: torch.Tensor
    scores: torch.Tensor | None = None


def register() -> None:
    """Makes the classes of these files known to torch, once."""
    if Boxes not in pytree.SUPPORTED_NODES:
        torch.export.register_dataclass(Boxes, serialized_type_name="fuzz.Boxes")
        pytree._register_namedtuple(Point, serialized_type_name="fuzz.Point")


ARGUMENTS = ((0, [0, Point(0, 0)], Boxes(0, 0)), {"mask": None, "sizes": {"a": 0, 1: deque([0], 3)}})
RESULT = {"boxes": Boxes(0), "pair": (0, 0), "more": defaultdict(list, {"n": OrderedDict(z=0, a=[0])})}


def layers() -> list[dict[str, Any]]:
    """A plugin with an attribute of every type, and a layer of TensorRT's."""
    attributes = {"negative_slope": 0.1, "max_value": float("inf"), "sizes": [1, 2], "tensors": "x,weight="}
    outputs = [{"name": "y0", "dtype": "float16", "shape": [-1, 3]}]
    return [
        {"name": "a", "type": "PLUGIN_V3", "op": "relu", "attributes": attributes, "inputs": [], "outputs": outputs},
        {"name": "b", "type": "CAST", "op": None, "attributes": {}, "inputs": ["x0"], "outputs": outputs},
    ]


def valid() -> EngineFile:
    """An engine file with one of everything; no TensorRT takes its engine."""
    register()
    leaves, results = len(pytree.tree_leaves(ARGUMENTS)), len(pytree.tree_leaves(RESULT))
    bounds = ((1, 3), (4, 3), (16, 3))
    return EngineFile(
        engine=random.Random(0).randbytes(200),
        flavour="tensorrt_rtx",
        tensorrt_version="1.7.1.116",
        target="sm86",
        plugins={"relu": "1"},
        inputs=tuple(TensorSpec(f"x{index}", "float16", *bounds) for index in range(leaves - 2)),
        outputs=tuple(OutputSpec(f"y{index}", "float16", (-1, 3)) for index in range(results - 2)),
        layers=layers(),
        in_spec=pytrees.of_spec(pytree.tree_structure(ARGUMENTS)),
        out_spec=pytrees.of_spec(pytree.tree_structure(RESULT)),
        output_map=[*range(results - 2), {"literal": 1.5}, {"input": 0}],
        metadata={
            "model": "Größe",
            "parameters": 7,
            "bridge": bridge.__version__,
            "torch": torch.__version__,
            "torch_tensorrt": None,
            "build_seconds": 1.25,
            "arguments": ["x", "pair", "boxes", "mask", "sizes"],
            "input_map": [*range(leaves - 2), {"literal": "fast"}, {"unused": True}],
            "nodes": [{"name": "n", "op": "bridge.relu", "module": "body.0", "layers": ["a"]}],
            "lowerings": [{"node": "n", "op": "relu", "kind": "relu()", "lowering": "plugin", "why": "asked for"}],
            "generated": [GENERATED],
            "passes": [{"pass": "rope", "replaced": True, "what": "rope()", "line": "m.py:3", "module": "body"}],
        },
    )


HOSTILE = "fuzz_marker"  # a module that nothing may import
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, -2, 2**31, 2**63 - 1, 2**63, 2**70, 10**400, 0.5, -0.0, 1e308),
    *(float("inf"), float("-inf"), float("nan")),
    *("", "*", "x", "0", "float16", "relu", "\x1b[2J\x1b]0;owned\x07", "a\nb", "\x9b31m", "\u202e", "\ud800", "Größe"),
    *("." * 2000, "x" * 3000, HOSTILE, f"{HOSTILE}.Class", "builtins.tuple", "collections.defaultdict", "fuzz.Point"),
    *([], {}, [0], [[]], {"a": 1}, ["*"], {"kind": "tuple", "context": None, "children": []}, {"literal": 1}),
    {"__enum__": True, "fqn": f"{HOSTILE}:a", "name": "b"},
    {"kind": "registered", "context": [f"{HOSTILE}.Class", None], "children": ["*"]},
    {"kind": "registered", "context": ["collections.deque", "x"], "children": ["*"]},
    {"kind": "registered", "context": ["fuzz.Boxes", [["nothing"], []]], "children": ["*"]},
    {"kind": "defaultdict", "context": [HOSTILE, ["a"]], "children": ["*"]},
    {"kind": "namedtuple", "context": "fuzz.Point", "children": ["*"]},
    {"kind": "dict", "context": ["a", "a"], "children": ["*", "*"]},
    {"kind": "dict", "context": [["a"]], "children": ["*"]},
)


def mutated(whole: bytes, chosen: random.Random) -> bytes:
    """The file changed in one way or several."""
    if chosen.random() < 0.15:
        return _bytewise(whole, chosen)
    header = _structured(json.loads(_parts(whole)[0]), chosen)
    text = json.dumps(header)
    if chosen.random() < 0.03:
        depth = chosen.choice((60, 70, 500, 5000, 100_000))
        text = text.replace('"*"', "[" * depth + "]" * depth, 1)
    return _framed(text.encode(), _parts(whole)[1])


def _structured(header: Any, chosen: random.Random) -> Any:
    for _ in range(chosen.choice((1, 1, 1, 2, 3, 5))):
        places = list(_places(header))
        parent, key = chosen.choice(places)
        way = chosen.random()
        if way < 0.4:
            parent[key] = chosen.choice([odd for odd in ODD if type(odd) is type(parent[key])])
        elif way < 0.6:
            parent[key] = chosen.choice(ODD)
        elif way < 0.75:
            parent[key] = json.loads(json.dumps(_at(chosen.choice(places))))
        elif way < 0.88:
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, json.loads(json.dumps(parent[key])))
        else:
            parent[str(chosen.choice(ODD))[:3000]] = chosen.choice(ODD)
        header = json.loads(json.dumps(header))  # ODD's own lists stay as they are
        if not isinstance(header, dict) or not header:
            break
    return header


def _places(value: Any) -> Any:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        yield value, key
        if isinstance(item, (dict, list)):
            yield from _places(item)


def _at(place: Any) -> Any:
    parent, key = place
    return parent[key] if isinstance(parent, dict) or key < len(parent) else None


def _bytewise(whole: bytes, chosen: random.Random) -> bytes:
    content = bytearray(whole)
    for _ in range(chosen.choice((1, 1, 2, 8))):
        at = chosen.randrange(len(content))
        match chosen.randrange(4):
            case 0:
                content[at] ^= 1 << chosen.randrange(8)
            case 1:
                content[at] = chosen.randrange(256)
            case 2:
                del content[at : at + chosen.randrange(1, 40)]
            case 3:
                content[at:at] = chosen.randbytes(chosen.randrange(1, 40))
        if len(content) < 2:
            break
    if chosen.random() < 0.7:  # the checksum made right
        content[-32:] = hashlib.sha256(content[:-32]).digest()
    return bytes(content)


def _parts(whole: bytes) -> tuple[bytes, bytes]:
    header = struct.unpack_from("<8sQQQ", whole)[2]
    return whole[32 : 32 + header], whole[32 + header : -32]


def _framed(header: bytes, payload: bytes) -> bytes:
    content = struct.pack("<8sQQQ", container.MAGIC, container.FORMAT, len(header), len(payload)) + header + payload
    return content + hashlib.sha256(content).digest()


class Undocumented(AssertionError):
    """Something came out of a file that is not documented."""


def run(count: int, seed: int, command_line: int = 1, findings: list[str] | None = None) -> Counter[str]:
    """Reads so many changed files in every way; every `command_line`-th also by the command line. Counts by outcome.

    Undocumented: raised for the first, unless there is a list of `findings` to add it to.
    """
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engines" / f"{0:064}.engine"
        path.parent.mkdir(mode=0o700)
        valid().save(path)
        whole = path.read_bytes()
        for number in range(count):
            content = mutated(whole, random.Random(f"{seed} {number}"))
            path.write_bytes(content)
            try:
                outcome = _exercise(path)
                if number % command_line == 0:
                    _command_line(path, refused=outcome == "EngineFileError from bridge.load")
            except Exception as error:
                what = f"file {number} of seed {seed}: {type(error).__name__}: {error}"
                if findings is None:
                    raise Undocumented(f"{what}; its header is\n{content[32:4000]!r}") from error
                findings.append(what)
                outcome = "undocumented"
            outcomes[outcome] += 1
            assert HOSTILE not in sys.modules
    return outcomes


def _exercise(path: Path) -> str:
    try:
        module = bridge.load(path)
    except EngineFileError as error:
        _shows_no_control(str(error))
        return "EngineFileError from bridge.load"
    _shows_no_control(repr(module) + repr(module.file))
    for nodes in (False, True):
        _shows_no_control(module.explain(nodes=nodes, layers=nodes))
    _shows_no_control(as_json(as_json_values(module.file)) + str(bridge.report(module)))
    _shows_no_control(page.content(module.file))
    module.save(path.with_suffix(".again"))
    assert repr(EngineFile.load(path.with_suffix(".again"))) == repr(module.file)
    try:
        return _call(module)
    except (EngineError, EngineInputError) as error:
        _shows_no_control(str(error))
        return f"{type(error).__name__} from a call"


def _call(module: CompiledModule) -> str:
    structure = CallStructure.of_file(module.file)
    args, kwargs = _arguments(structure)
    inputs = structure.flatten(args, kwargs)
    assert len(inputs) == len(module.inputs)
    structure.unflatten(inputs, [torch.zeros(1) for _ in module.outputs])
    module(*args, **kwargs)
    return "a call"


def _arguments(structure: CallStructure) -> tuple[Any, Any]:
    """Arguments of the structure that a file asks for; none where its classes refuse to be made so."""
    spec = pytrees.to_spec(structure.in_spec)
    leaves = [entry.get("literal", 0) if isinstance(entry, dict) else torch.zeros(1) for entry in structure.input_map]
    with contextlib.suppress(Exception):  # the caller's own doing, not bridge's
        args, kwargs = pytree.tree_unflatten(leaves, spec)
        return args, {key: value for key, value in kwargs.items() if isinstance(key, str)}
    return (), {}


def _command_line(path: Path, refused: bool) -> None:
    folder = str(path.parent.parent)
    commands = {
        ("explain", str(path)): {0, 5},
        ("explain", str(path), "--nodes", "--layers"): {0, 5},
        ("explain", str(path), "--json"): {0, 5},
        ("cache", "ls", "--dir", folder): {0},
        ("cache", "ls", "--json", "--dir", folder): {0},
        ("cache", "verify", "--dir", folder): {1},
    }
    for command, codes in commands.items():
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(command)
        assert code in codes and (code != 5 or refused), f"{command}: exit code {code}, {err.getvalue()}"
        if command[0] == "explain":
            assert (code == 5) is refused, err.getvalue()
        _shows_no_control(out.getvalue() + err.getvalue())


def _shows_no_control(text: str) -> None:
    found = [letter for letter in text if letter != "\n" and not letter.isprintable()]
    assert not found, f"control characters {found} in {text!r}"
