"""manifest.json of an exported folder: what a program without Python, or a person, has to know of the engine.

    format      1
    model       the class of the model, or null
    engine      file, bytes, sha256 of the plan
    flavour     "tensorrt" or "tensorrt_rtx"; tensorrt: its version; target: the GPU, such as "sm86"
    machine     the processor that the libraries are for, such as "x86_64"
    versions    of bridge, torch and torch_tensorrt
    inputs      name, dtype, and the profile: min, opt and max extents
    outputs     name, dtype, shape, in which -1 depends on the inputs' shapes
    arguments   names, structure, and for each leaf of it {"input": name}, {"literal": value} or {"unused": true}
    result      structure, and for each leaf of it {"output": name}, {"input": name} or {"literal": value}
    libraries   file, namespace, sha256, ops and origin of every plugin library
    embedded    whether the plan holds its plugin libraries, so that none is listed
    autoload    file and sha256 of the library that registers these when it is loaded; null where there are none

A structure is "*" for a leaf, or {"kind", "context", "children"}; bridge/engine_file/pytrees.py says more. A literal
that JSON has no number for is {"literal": "inf", "type": "float"}.
"""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from bridge.base.files import read_object, sha256
from bridge.engine_file import checks
from bridge.engine_file.contents import EngineFile
from bridge.errors import EngineFileError
from bridge.export.libraries import FOLDER, PluginLibrary, check_target

NAME = "manifest.json"
FORMAT = 1

_ENGINE = {"file": checks.name, "bytes": checks.integer(0), "sha256": checks.name}
_LIBRARY = {
    **dict.fromkeys(("file", "namespace", "sha256", "origin"), checks.name),
    "ops": checks.sequence(checks.name),
}
_NATIVE = {"file": checks.name, "sha256": checks.name}
_MANIFEST = checks.record(
    {
        "engine": checks.record(_ENGINE),
        **dict.fromkeys(("flavour", "tensorrt", "machine"), checks.name),
        "target": check_target,
        "embedded": checks.flag,
        "libraries": checks.sequence(checks.record(_LIBRARY)),
        "autoload": checks.optional(checks.record(_NATIVE)),
    }
)


def of(file: EngineFile, libraries: Sequence[PluginLibrary], plan: Path, autoload: Path | None) -> dict[str, Any]:
    """The manifest of an engine. plan: the file with it. autoload: the library that registers the others."""
    metadata = file.metadata
    return {
        "format": FORMAT,
        "model": metadata.get("model"),
        "engine": {"file": plan.name, "bytes": len(file.engine), "sha256": sha256(plan)},
        "flavour": file.flavour,
        "tensorrt": file.tensorrt_version,
        "target": file.target,
        "machine": platform.machine(),
        "versions": {name: metadata.get(name) for name in ("bridge", "torch", "torch_tensorrt")},
        "inputs": [asdict(spec) for spec in file.inputs],
        "outputs": [asdict(spec) for spec in file.outputs],
        "arguments": _arguments(file),
        "result": {"structure": file.out_spec.as_json(), "leaves": [_leaf(file, each) for each in file.output_map]},
        "embedded": file.embeds_libraries,
        "libraries": [
            {
                "file": f"{FOLDER}/{each.file}",
                "namespace": each.namespace,
                "sha256": each.sha256,
                "ops": list(each.ops),
                "origin": each.origin,
            }
            for each in libraries
        ],
        "autoload": autoload and {"file": f"{FOLDER}/{autoload.name}", "sha256": sha256(autoload)},
    }


def native_files(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of a manifest that name a native library."""
    return [*manifest["libraries"], *([manifest["autoload"]] if manifest["autoload"] else [])]


def _arguments(file: EngineFile) -> dict[str, Any]:
    entries = [{"input": entry} if isinstance(entry, int) else entry for entry in file.metadata.get("input_map", [])]
    return {
        "names": file.metadata.get("arguments", []),
        "structure": file.in_spec.as_json(),
        "leaves": [_leaf(file, each) for each in entries],
    }


def _leaf(file: EngineFile, entry: Any) -> dict[str, Any]:
    """An entry of the engine file's maps, with names for indices."""
    match entry:
        case int():
            return {"output": file.outputs[entry].name}
        case {"input": index}:
            return {"input": file.inputs[index].name}
        case {"literal": float(value)} if not math.isfinite(value):
            return {"literal": str(value), "type": "float"}
        case _:
            return dict(entry)


def read(folder: Path) -> dict[str, Any]:
    """The manifest of an exported folder, checked. EngineFileError: there is none, or it is damaged or newer."""
    path = folder / NAME
    try:
        manifest = read_object(path, "manifest")
    except ValueError as error:
        raise EngineFileError(f"{error}; export the engine again") from error
    except OSError as error:
        raise EngineFileError(f"{folder} is no exported folder: {path.name}: {error.strerror or error}") from error
    if manifest.get("format") != FORMAT:
        shown = checks.shown(manifest.get("format"))
        raise EngineFileError(f"{path} has format {shown}, and this bridge reads {FORMAT}: export the engine again")
    try:
        _MANIFEST(manifest, "it")
    except EngineFileError as error:
        raise EngineFileError(f"{path} is no manifest: {error}") from error
    for row in (manifest["engine"], *native_files(manifest)):
        place = PurePosixPath(row["file"])
        if place.is_absolute() or ".." in place.parts:
            raise EngineFileError(f"{path} names {checks.shown(row['file'])}, which is not in the folder")
    return manifest
