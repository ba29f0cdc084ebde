"""Lowers a captured graph for torch_tensorrt's converters, for every door."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch.export import ExportedProgram
from torch.fx import GraphModule

from bridge.base import log
from bridge.doors.generation import generate_unsupported
from bridge.doors.session import Session
from bridge.engine_file.contents import TensorSpec
from bridge.tensorrt.network.convertible_graph import lower
from bridge.tensorrt.network.op_converter import refresh


def lowered(program: ExportedProgram, specs: Mapping[str, TensorSpec]) -> tuple[GraphModule, Any]:
    """The program's graph, lowered for torch_tensorrt's converters, and the settings used.

    ExportError, UnsupportedOpError, BuildError: as `lower` has them.
    """
    settings = _conversion_settings()
    refresh()  # the capture may have imported a library whose operators are bridge's, such as torchvision
    return lower(program, specs, settings), settings


def lowered_and_generated(
    program: ExportedProgram, specs: Mapping[str, TensorSpec], session: Session
) -> tuple[GraphModule, Any]:
    """As `lowered`; then the operators that no converter takes are generated, where the config says so."""
    with log.step("lowering"):
        module, settings = lowered(program, specs)
    if session.config.generate:
        generate_unsupported(module.graph, session)
        refresh()
    return module, settings


def _conversion_settings() -> Any:
    """torch_tensorrt's settings; not every version has all of them."""
    from torch_tensorrt.dynamo._settings import CompilationSettings
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    # PyTorch's decomposition of complex numbers renames the graph's inputs; torch_tensorrt's own pass keeps them.
    values = {"use_explicit_typing": True, "attn_bias_is_causal": False, "use_complex_decomposition": False}
    supported = {field.name for field in dataclasses.fields(CompilationSettings)}
    settings = CompilationSettings(**{name: value for name, value in values.items() if name in supported})
    DYNAMO_CONVERTERS.set_compilation_settings(settings)
    return settings
