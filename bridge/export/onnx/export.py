"""bridge.export_onnx: a model as an ONNX file that TensorRT imports, plugins included."""

import importlib.util
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from bridge.base import log
from bridge.config import Config
from bridge.doors.compiler import CapturedModel, capture, resolve_config
from bridge.doors.generation import generate_operators, with_marked_generated
from bridge.doors.session import Session
from bridge.errors import EngineFileError, FlavourError
from bridge.export.onnx import saving
from bridge.export.onnx.dimensions import dimension_names
from bridge.export.onnx.import_check import check_import
from bridge.export.onnx.names import name_tensors, names_of
from bridge.export.onnx.plugin_nodes import declare_bytes, mark_constants, plugins_in
from bridge.export.onnx.program import prepared
from bridge.export.onnx.repairs import cast_fused_weights, fold_filled_tensors
from bridge.export.onnx.result import OnnxFile
from bridge.export.onnx.translate import translated, untranslated
from bridge.tensorrt.plugins.requirements import check_targets, libraries_of


@log.some_stderr()
def export_onnx(
    model: torch.nn.Module | ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    path: str | os.PathLike[str],
    force: bool = False,
    config: Config | None = None,
    **settings: Any,
) -> OnnxFile:
    """Writes a model as an ONNX file, in which each of bridge's ops is a node that TensorRT imports as its plugin.

    Passes and generated plugins are as in bridge.compile. Inputs and outputs have the model's names. TensorRT's ONNX
    parser here imports the file before it is put in place.

    Args:
        model, args, kwargs, dynamic_shapes: as for bridge.compile; a dynamic dimension has its Dim's name.
        path: the file. Weights of 1.5 GiB and more go to a second file beside it, FILE.data.
        force: replaces a file that is there.
        config, settings: as for bridge.compile. target: the GPU that the plugins must have code for. lowering: "native"
            writes an op as operators of ONNX, "auto" and "plugin" as a plugin. generate: makes plugins of operators
            that torch.onnx cannot translate.

    Raises:
        EngineFileError: the file is there already, or cannot be written.
        UnsupportedOpError: operators have neither a plugin nor a translation; all are named, with the model's lines.
        BuildError: TensorRT's ONNX parser refuses the file, or torch.onnx wrote an invalid one.
        FlavourError: onnxscript is not installed.
        ExportError, TargetError, LibraryError, TypeError, ValueError: as for bridge.compile.
    """
    config = resolve_config(config, settings)
    target = saving.checked(path, force)
    _check_onnxscript()
    session = Session.of(config)
    with session.converting():
        captured = capture(session, model, args, kwargs, dynamic_shapes)
        with log.step("translation"):
            program = _translated(captured, session, dynamic_shapes)
        return _written(program, captured, session, target)


def _translated(captured: CapturedModel, session: Session, dynamic_shapes: Any) -> Any:
    """The torch.onnx.ONNXProgram of a captured model."""
    names = names_of(captured.program)
    program = prepared(with_marked_generated(captured.program, session), session.config)
    if session.config.generate:
        generate_operators(program.graph, untranslated(program), session)
    result = translated(program)
    fold_filled_tensors(result.model)
    cast_fused_weights(result.model)
    mark_constants(result.model)
    declare_bytes(result.model)
    name_tensors(result.model, names)
    result.rename_axes(dimension_names(captured.program, dynamic_shapes))
    return result


def _written(program: Any, captured: CapturedModel, session: Session, target: Path) -> OnnxFile:
    """Writes it, has TensorRT import it, and then puts it in place."""
    ops = plugins_in(program.model)
    check_targets(ops, session.target)
    libraries = libraries_of(ops)
    plugins = Counter(op.name for op in ops)
    try:
        with tempfile.TemporaryDirectory(prefix=".bridge-", dir=target.parent) as folder:
            staged = saving.staged(program, Path(folder), target.name)
            check_import(session.flavour, staged, libraries, plugins)
            files = saving.moved(staged, target)
    except OSError as error:
        raise EngineFileError(f"cannot write {target}: {error.strerror or error}") from error
    paths = tuple(library.plugin_library() for library in libraries)
    return OnnxFile(target, files, plugins, paths, tuple(captured.specs.values()))


def _check_onnxscript() -> None:
    if importlib.util.find_spec("onnxscript") is None:
        raise FlavourError("torch.onnx needs onnxscript, which is not installed: pip install 'bridge-tensorrt[onnx]'")
