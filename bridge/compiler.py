"""bridge.compile: a model becomes one engine."""

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

import bridge
from bridge import native, structure
from bridge.assumptions import check_assumptions
from bridge.capture import export
from bridge.compiled import CompiledModule, load
from bridge.config import Config
from bridge.converters import Conversion, register
from bridge.errors import BuildError, ExportError
from bridge.profile import input_specs
from bridge.tensorrt import build, gpu, inventory, quiet
from bridge.tensorrt.calls import find_calls
from bridge.tensorrt.engine_file import EngineFile, TensorSpec
from bridge.tensorrt.fields import VERSION
from bridge.tensorrt.flavour import Flavour, detect
from bridge.tensorrt.interpreter import fill_network
from bridge.tensorrt.library import load_library
from bridge.tensorrt.lower import check_supported, lower
from bridge.tensorrt.messages import take_errors
from bridge.tensorrt.plugin import plugins_for
from bridge.tensorrt.target import resolve_target

__all__ = ["CompiledModule", "compile", "load"]

_LOCK = threading.RLock()  # torch.export and torch_tensorrt keep state in globals


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
    flavour = detect(config.flavour)
    target = resolve_target(flavour, config.target)
    load_library(flavour.trt(), native.plugin_library())
    with _LOCK, quiet.quiet_logs():
        program = export(model, args, kwargs, dynamic_shapes)
        specs = input_specs(program)
        check_assumptions(program)
        register(flavour)
        with gpu.without_gpu():
            return CompiledModule(_compile(program, specs, flavour, target, config, _describe(model, flavour)))


def _compile(
    program: ExportedProgram,
    specs: Mapping[str, TensorSpec],
    flavour: Flavour,
    target: str,
    config: Config,
    metadata: dict[str, Any],
) -> EngineFile:
    started = time.monotonic()
    take_errors(flavour)  # of earlier work
    settings = _conversion_settings()
    module = lower(program, specs, settings)
    check_supported(module, flavour)
    used = {node.target: specs[node.target] for node in module.graph.find_nodes(op="placeholder") if node.users}
    output_map, names = _flatten_outputs(module, program, list(used))
    calls = find_calls(module)
    builder, network = build.create_network(flavour)
    conversion = Conversion(plugins_for(flavour, network, calls), {call.name: call for call in calls})
    filling = fill_network(flavour, module, settings, builder, network, conversion, used, names)
    layers = inventory.layers(network, conversion.layers)
    _check_plugins(layers, calls)
    engine = build.build_engine(flavour, builder, network, filling.profile, target, config)
    shape = structure.of_program(program, list(used), output_map)
    return EngineFile(
        engine=engine,
        flavour=flavour.name,
        tensorrt_version=flavour.version,
        target=target,
        plugins={call.op.name: VERSION for call in calls},
        inputs=tuple(used.values()),
        outputs=inventory.outputs(network),
        layers=layers,
        in_spec=shape.in_spec,
        out_spec=shape.out_spec,
        output_map=output_map,
        metadata=metadata
        | {"arguments": shape.arguments, "input_map": shape.input_map}
        | {"build_seconds": round(time.monotonic() - started, 3)},
    )


def _conversion_settings() -> Any:
    """torch_tensorrt's settings; some versions lack some of them."""
    from torch_tensorrt.dynamo._settings import CompilationSettings
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    wanted = {"use_explicit_typing": True, "attn_bias_is_causal": False}
    known = {field.name for field in dataclasses.fields(CompilationSettings)}
    settings = CompilationSettings(**{name: value for name, value in wanted.items() if name in known})
    DYNAMO_CONVERTERS.set_compilation_settings(settings)
    return settings


def _flatten_outputs(
    module: GraphModule, program: ExportedProgram, taken: Sequence[str]
) -> tuple[list[Any], list[str]]:
    """Makes the graph return every tensor once; returns the output map and the names of the engine's outputs.

    ExportError: the model returns a number that depends on shapes.
    """
    output = module.graph.output_node()
    leaves: list[Any] = list(output.args[0])  # type: ignore[arg-type]
    names = structure.output_names(program.call_spec.out_spec, taken)
    distinct: dict[Node, str] = {}
    for leaf, name in zip(leaves, names, strict=True):
        if isinstance(leaf, Node):
            if not isinstance(leaf.meta.get("val"), torch.Tensor) and leaf.op != "get_attr":
                raise ExportError(f"the model returns {name}, a number taken from a shape; return tensors, or drop it")
            distinct.setdefault(leaf, name)
    if not distinct:
        raise ExportError("the model returns no tensor; an engine has at least one output")
    output.args = (tuple(distinct),)
    places = {node: index for index, node in enumerate(distinct)}
    return [places[leaf] if isinstance(leaf, Node) else {"literal": leaf} for leaf in leaves], list(distinct.values())


def _check_plugins(layers: Sequence[Mapping[str, Any]], calls: Sequence[Any]) -> None:
    expected = Counter(call.op.name for call in calls)
    found = Counter(layer["op"] for layer in layers if layer["type"] == "PLUGIN_V3")
    if found != expected:
        raise BuildError(f"the graph holds the ops {dict(expected)}, but the network the plugin layers {dict(found)}")


def _describe(model: torch.nn.Module | ExportedProgram, flavour: Flavour) -> dict[str, Any]:
    exported = isinstance(model, ExportedProgram)
    parameters = model.parameters()
    return {
        "model": "ExportedProgram" if exported else type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "bridge": bridge.__version__,
        "torch": torch.__version__,
        "torch_tensorrt": flavour.torch_tensorrt_version,
    }
