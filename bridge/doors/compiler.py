"""bridge.compile: a model becomes one engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram

from bridge.base import log
from bridge.config import Config
from bridge.doors.pipeline import compile_program, describe, rewrite
from bridge.doors.session import Session
from bridge.engine.compiled import CompiledModule, load
from bridge.engine_file.contents import TensorSpec
from bridge.graph.assumptions import check_assumptions, warn_of_ones
from bridge.graph.capture import export
from bridge.graph.shape_profile import input_specs
from bridge.passes import Outcome

__all__ = ["CompiledModule", "compile", "load"]


@log.some_stderr()
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
    config = settle(config, settings)
    session = Session.of(config)
    with session.converting():
        return capture(session, model, args, kwargs, dynamic_shapes).compile(session)


def settle(config: Config | None, settings: Mapping[str, Any]) -> Config:
    """A config with the settings that override it. ValueError: fallback, which one engine cannot have."""
    config = (config or Config()).with_settings(dict(settings))
    if config.fallback:
        raise ValueError(
            "bridge.compile makes one engine, or says why not; for a model that runs partly in PyTorch, use"
            ' torch.compile(model, backend="bridge", options={"fallback": True})'
        )
    return config


@dataclass(frozen=True)
class Captured:
    """A model as torch.export captured it and the passes rewrote it, with the specs of its inputs and the metadata of
    its engine."""

    program: ExportedProgram
    specs: Mapping[str, TensorSpec]
    metadata: Mapping[str, Any]
    outcomes: Sequence[Outcome] = ()

    def compile(self, session: Session) -> CompiledModule:
        """Its engine. Call it within `session.converting()`."""
        built = compile_program(self.program, self.specs, session, self.metadata, self.outcomes)
        return CompiledModule(built.file, from_cache=built.from_cache, **session.config.runtime)


def capture(
    session: Session,
    model: torch.nn.Module | ExportedProgram,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
) -> Captured:
    """Exports a model, as `compile` takes it. Call it within `session.converting()`."""
    with log.step("export"):
        program = export(model, args, kwargs, dynamic_shapes)
    specs = input_specs(program)
    check_assumptions(program)
    warn_of_ones(program)
    program, outcomes = rewrite(program, session)
    exported = isinstance(model, ExportedProgram)
    name = "ExportedProgram" if exported else type(model).__name__
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Captured(program, specs, describe(name, parameters, session.flavour), outcomes)
