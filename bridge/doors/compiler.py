"""bridge.compile: compiles a model into one engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram

from bridge.base import log
from bridge.config import Config
from bridge.doors.pipeline import compile_program, engine_metadata, rewrite
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
    """Compiles a model into one TensorRT engine, or raises an error that says why it cannot.

    An engine that was built before comes from the cache on disk; see `CompiledModule.from_cache`.

    Args:
        model: in eval mode; its dtypes are the engine's. An ExportedProgram is passed without arguments.
        args, kwargs: example arguments, on the model's device; they fix ranks, dtypes and static extents.
        dynamic_shapes: as torch.export takes them, e.g. {"x": {0: torch.export.Dim("batch", min=1, max=8)}}. Every
            dynamic dimension needs a max; the engine is tuned for the example's extents.
        config, settings: a Config, and single settings that override it, e.g. target="sm86".

    Raises:
        ExportError: torch.export cannot capture the model, or an engine cannot hold it.
        UnsupportedOpError: operators have no converter; all are named, with the model's lines.
        BuildError: TensorRT refuses the network.
        TargetError, FlavourError, LibraryError: this target, TensorRT or the plugin library is not available.
        TypeError, ValueError: an argument or a setting is invalid.
    """
    config = resolve_config(config, settings)
    session = Session.of(config)
    with session.converting():
        return capture(session, model, args, kwargs, dynamic_shapes).compile(session)


def resolve_config(config: Config | None, settings: Mapping[str, Any]) -> Config:
    """The config with the settings applied. ValueError: fallback is set, which needs torch.compile."""
    config = (config or Config()).with_settings(dict(settings))
    if config.fallback:
        raise ValueError(
            "bridge.compile makes one engine, or says why not; for a model that runs partly in PyTorch, use"
            ' torch.compile(model, backend="bridge", options={"fallback": True})'
        )
    return config


@dataclass(frozen=True)
class CapturedModel:
    """A model captured by torch.export and rewritten by the passes, with its input specs and engine metadata."""

    program: ExportedProgram
    specs: Mapping[str, TensorSpec]
    metadata: Mapping[str, Any]
    outcomes: Sequence[Outcome] = ()

    def compile(self, session: Session) -> CompiledModule:
        """Builds its engine. Call it within `session.converting()`."""
        result = compile_program(self.program, self.specs, session, self.metadata, self.outcomes)
        return CompiledModule(result.file, from_cache=result.from_cache, **session.config.runtime)


def capture(
    session: Session,
    model: torch.nn.Module | ExportedProgram,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
) -> CapturedModel:
    """Captures a model; arguments as for `compile`. Call it within `session.converting()`."""
    with log.step("export"):
        program = export(model, args, kwargs, dynamic_shapes)
    specs = input_specs(program)
    check_assumptions(program)
    warn_of_ones(program)
    program, outcomes = rewrite(program, session)
    exported = isinstance(model, ExportedProgram)
    name = "ExportedProgram" if exported else type(model).__name__
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return CapturedModel(program, specs, engine_metadata(name, parameters, session.flavour), outcomes)
