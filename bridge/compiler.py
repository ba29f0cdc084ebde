"""bridge.compile: a model becomes one engine."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from bridge import log
from bridge.assumptions import check_assumptions
from bridge.capture import export
from bridge.compiled import CompiledModule, load
from bridge.config import Config
from bridge.pipeline import Session, compile_program, describe
from bridge.profile import input_specs

__all__ = ["CompiledModule", "compile", "load"]


def compile(
    model: torch.nn.Module | ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    config: Config | None = None,
    **settings: Any,
) -> CompiledModule:
    """Compiles a model into one TensorRT engine, or says what stands in the way.

    The engine is taken from the cache on disk if it was built before; `CompiledModule.from_cache` says so.

    Args:
        model: in eval mode; its dtypes are the engine's. An ExportedProgram stands alone.
        args, kwargs: example arguments, on the model's device; they fix ranks, dtypes and static extents.
        dynamic_shapes: as torch.export takes them, e.g. {"x": {0: torch.export.Dim("batch", min=1, max=8)}}. Every
            dynamic dimension needs a max; the engine is tuned for the example's extents.
        config, settings: a Config, and single settings that override it, e.g. target="sm86".

    Raises:
        ExportError: torch.export cannot capture the model, or it needs what an engine cannot do.
        UnsupportedOpError: an operator has no converter; all are named, with the model's lines.
        BuildError: TensorRT refuses the network.
        TargetError, FlavourError, LibraryError: there is no such target, TensorRT or plugin library here.
        TypeError, ValueError: an argument or a setting is not what it should be.
    """
    config = (config or Config()).with_settings(settings)
    if config.fallback:
        raise ValueError(
            "bridge.compile makes one engine, or says why not; for a model that runs partly in PyTorch, use"
            ' torch.compile(model, backend="bridge", options={"fallback": True})'
        )
    session = Session.of(config)
    with session.converting():
        with log.step("export"):
            program = export(model, args, kwargs, dynamic_shapes)
        specs = input_specs(program)
        check_assumptions(program)
        exported = isinstance(model, ExportedProgram)
        name = "ExportedProgram" if exported else type(model).__name__
        parameters = sum(parameter.numel() for parameter in model.parameters())
        built = compile_program(program, specs, session, describe(name, parameters, session.flavour))
    return CompiledModule(built.file, from_cache=built.from_cache, **config.runtime)
