"""From a captured graph to an engine file: what the doors share."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from bridge.base import log
from bridge.base.package import __version__
from bridge.doors.lowering_choice import Choice
from bridge.doors.session import Session
from bridge.engine import call_structure
from bridge.engine.cache import EngineCache
from bridge.engine.cache_key import engine_key, environment
from bridge.engine.code_key import NoKeyError
from bridge.engine.surroundings import surroundings
from bridge.engine_file.contents import EngineFile, TensorSpec
from bridge.errors import BuildError, ExportError
from bridge.graph.assumptions import asked_in_lowering
from bridge.graph.shape_profile import naming_empty
from bridge.graph.valid_names import without_conditions, writable
from bridge.passes import Outcome, selected
from bridge.passes import rewrite as apply_passes
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.install.tensorrt_log import take_errors
from bridge.tensorrt.native_lowerings import NATIVE
from bridge.tensorrt.network import build, inventory
from bridge.tensorrt.network.convertible_graph import check_supported, lower
from bridge.tensorrt.network.interpreter import fill_network
from bridge.tensorrt.network.op_converter import Conversion, refresh
from bridge.tensorrt.plugins.fields import VERSION
from bridge.tensorrt.plugins.op_calls import find_calls, fitting_calls
from bridge.tensorrt.plugins.plugin_layers import plugins_for

# The settings that an engine depends on; the others say how it is called, kept or reported.
_BUILD_SETTINGS = ("optimization_level", "workspace_size", "tf32")


@dataclass(frozen=True)
class Built:
    """An engine file, and whether the cache had it."""

    file: EngineFile
    from_cache: bool


def rewrite(program: ExportedProgram, session: Session) -> tuple[ExportedProgram, list[Outcome]]:
    """The program after the passes that the settings ask for, and what they did; the one given stays as it is.

    ExportError: taking in-place writes out of it, or an op's shapes, fixed a dynamic dimension.
    """
    program = writable(program)
    with log.step("passes") as note, asked_in_lowering(program), without_conditions(program):
        program, outcomes = apply_passes(program, selected(session.config.passes))
        note(f"{sum(outcome.replaced for outcome in outcomes)} of {len(outcomes)} places rewritten")
    return program, outcomes


def compile_program(
    program: ExportedProgram,
    specs: Mapping[str, TensorSpec],
    session: Session,
    metadata: Mapping[str, Any],
    outcomes: Sequence[Outcome] = (),
) -> Built:
    """The engine of an exported program, from the cache or built. Call it within `session.converting()`.

    specs: of every tensor input, by its placeholder's name. metadata: of the engine file. outcomes: of `rewrite`, which
    the file tells; the engine depends on the program alone.
    ExportError, UnsupportedOpError, BuildError: as bridge.compile has them.
    """
    tensors = {**program.state_dict, **program.constants, **_inner_graphs(program.graph_module)}
    parts = {"in_spec": str(program.call_spec.in_spec), "out_spec": str(program.call_spec.out_spec)}
    module = program.graph_module
    built = _cached(module, tensors, specs, session, metadata, parts, lambda: _build(program, specs, session))
    rows = [outcome.row() for outcome in outcomes]
    return dataclasses.replace(
        built, file=dataclasses.replace(built.file, metadata={**built.file.metadata, "passes": rows})
    )


def compile_module(
    module: GraphModule,
    specs: Mapping[str, TensorSpec],
    session: Session,
    settings: Any,
    metadata: Mapping[str, Any],
) -> Built:
    """The same of a graph that was lowered with `settings`; it takes tensors and returns a tuple of tensors."""

    def make() -> EngineFile:
        started = time.monotonic()
        take_errors(session.flavour)
        count = len(module.graph.output_node().args[0])  # type: ignore[arg-type]
        names = [f"output{index}" for index in range(count)]
        return _convert(module, specs, names, call_structure.of_tensors(list(specs), count), session, settings, started)

    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers()), **_inner_graphs(module)}
    return _cached(module, tensors, specs, session, metadata, {}, make)


def lowered(program: ExportedProgram, specs: Mapping[str, TensorSpec]) -> tuple[GraphModule, Any]:
    """The program's graph as torch_tensorrt's converters take it, and the settings that it was lowered with.

    ExportError, UnsupportedOpError, BuildError: as `lower` has them.
    """
    settings = _conversion_settings()
    refresh()  # the capture may have imported a library whose operators are bridge's, such as torchvision
    return lower(program, specs, settings), settings


def _conversion_settings() -> Any:
    """torch_tensorrt's settings; some versions lack some of them."""
    from torch_tensorrt.dynamo._settings import CompilationSettings
    from torch_tensorrt.dynamo.conversion import DYNAMO_CONVERTERS

    wanted = {"use_explicit_typing": True, "attn_bias_is_causal": False}
    known = {field.name for field in dataclasses.fields(CompilationSettings)}
    settings = CompilationSettings(**{name: value for name, value in wanted.items() if name in known})
    DYNAMO_CONVERTERS.set_compilation_settings(settings)
    return settings


def describe(name: str, parameters: int, flavour: Flavour) -> dict[str, Any]:
    """The metadata that every engine file has."""
    return {
        "model": name,
        "parameters": parameters,
        "bridge": __version__,
        "torch": torch.__version__,
        "torch_tensorrt": flavour.torch_tensorrt_version,
    }


def _cached(
    module: GraphModule,
    tensors: Mapping[str, Any],
    specs: Mapping[str, TensorSpec],
    session: Session,
    metadata: Mapping[str, Any],
    parts: Mapping[str, Any],
    make: Callable[[], EngineFile],
) -> Built:
    def build_file() -> EngineFile:
        file = make()
        return dataclasses.replace(file, metadata={**file.metadata, **metadata})

    cache = EngineCache.of(session.config)
    if cache is None:
        return Built(build_file(), False)
    choices = session.choose(fitting_calls(module))
    everything = {
        **parts,
        "lowerings": sorted({(choice.kind, choice.lowering) for choice in choices}),
        "specs": list(specs.values()),
        "metadata": dict(metadata),
        "target": session.target,
        "settings": {name: getattr(session.config, name) for name in _BUILD_SETTINGS},
        "environment": environment(session.flavour),
    }
    try:
        with log.step("cache key"):
            everything["surroundings"] = surroundings(module.graph)
            key = engine_key(module.graph, tensors, everything)
    except NoKeyError as error:
        log.logger.info("not cached: %s", error)
        return Built(build_file(), False)
    file, from_cache = cache.get_or_build(key, build_file)
    return Built(_with_reasons(file, choices), from_cache)


def _with_reasons(file: EngineFile, choices: Sequence[Choice]) -> EngineFile:
    """A cached engine with the reasons of today: the same lowerings may have been chosen for others then."""
    reasons = {(choice.kind, choice.lowering): choice.why for choice in choices}
    rows = file.metadata.get("lowerings", [])
    renewed = [{**row, "why": reasons.get((row["kind"], row["lowering"]), row["why"])} for row in rows]
    return dataclasses.replace(file, metadata={**file.metadata, "lowerings": renewed})


def _inner_graphs(module: GraphModule) -> dict[str, GraphModule]:
    """The branches and bodies of control flow, which the graph has by name."""
    return {name: inner for name, inner in module.named_modules() if name and isinstance(inner, GraphModule)}


def _build(program: ExportedProgram, specs: Mapping[str, TensorSpec], session: Session) -> EngineFile:
    started = time.monotonic()
    take_errors(session.flavour)  # of earlier work
    with log.step("lowering"):
        module, settings = lowered(program, specs)
        check_supported(module, session.flavour)
    used = {node.target: specs[node.target] for node in module.graph.find_nodes(op="placeholder") if node.users}
    output_map, names = _flatten_outputs(module, program, list(used))
    shape = call_structure.of_program(program, list(used), output_map)
    return _convert(module, used, names, shape, session, settings, started)


def _convert(
    module: GraphModule,
    inputs: Mapping[str, TensorSpec],
    outputs: Sequence[str],
    shape: call_structure.Structure,
    session: Session,
    settings: Any,
    started: float,
) -> EngineFile:
    flavour = session.flavour
    calls = find_calls(module)
    choices = session.choose(calls)
    native_nodes = frozenset(choice.node for choice in choices if choice.lowering == NATIVE)
    plugins = [call for call in calls if call.name not in native_nodes]
    with log.step("conversion") as note:
        builder, network = build.create_network(flavour)
        named = {call.name: call for call in calls}
        conversion = Conversion(plugins_for(flavour, network, plugins), named, native=native_nodes)
        filling = fill_network(flavour, module, settings, builder, network, conversion, inputs, outputs)
        layers = inventory.layers(network, conversion.layers)
        _check_plugins(layers, plugins)
        note(f"{len(layers)} layers, {len(plugins)} of them plugins")
    with log.step(f"build for {session.target}") as note:
        with naming_empty(inputs):
            engine = build.build_engine(flavour, builder, network, filling.profile, session.target, session.config)
        note(f"{len(engine):,} bytes")
    return EngineFile(
        engine=engine,
        flavour=flavour.name,
        tensorrt_version=flavour.version,
        target=session.target,
        plugins={call.op.name: VERSION for call in plugins},
        inputs=tuple(inputs.values()),
        outputs=inventory.outputs(network),
        layers=layers,
        in_spec=shape.in_spec,
        out_spec=shape.out_spec,
        output_map=shape.output_map,
        metadata={
            "arguments": shape.arguments,
            "input_map": shape.input_map,
            "nodes": filling.nodes,
            "lowerings": [asdict(choice) for choice in choices],
            "build_seconds": round(time.monotonic() - started, 3),
        },
    )


def _flatten_outputs(
    module: GraphModule, program: ExportedProgram, taken: Sequence[str]
) -> tuple[list[Any], list[str]]:
    """Makes the graph return every tensor once; returns the output map and the names of the engine's outputs.

    ExportError: the model returns a number that depends on shapes.
    """
    output = module.graph.output_node()
    leaves: list[Any] = list(output.args[0])  # type: ignore[arg-type]
    names = call_structure.output_names(program.call_spec.out_spec, taken)
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
        raise BuildError(
            f"the graph needs the plugins {dict(expected)}, but the network the plugin layers {dict(found)}"
        )
