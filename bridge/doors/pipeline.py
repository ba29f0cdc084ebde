"""Makes an engine file from a captured graph, for every door."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from bridge.base import log
from bridge.base.package import __version__
from bridge.doors.generation import with_marked_generated
from bridge.doors.lowered_graph import lowered_and_generated
from bridge.doors.lowerings.lowering_choice import Choice
from bridge.doors.session import Session
from bridge.engine import call_structure
from bridge.engine.cache import EngineCache
from bridge.engine.cache_key import build_environment, engine_key
from bridge.engine.code_key import NoKeyError
from bridge.engine.process_state import process_state
from bridge.engine_file.contents import EngineFile, TensorSpec
from bridge.errors import BuildError
from bridge.generate import store
from bridge.graph.assumptions import checking_lowering
from bridge.graph.shape_profile import explaining_empty_inputs, symbolic_shapes
from bridge.graph.torch_patches.input_guards import without_input_guards
from bridge.graph.valid_names import with_valid_names
from bridge.passes import Outcome, pass_names
from bridge.passes import rewrite as apply_passes
from bridge.tensorrt.install.flavour import Flavour
from bridge.tensorrt.install.tensorrt_log import take_errors
from bridge.tensorrt.native_lowerings import NATIVE
from bridge.tensorrt.network import build, inventory
from bridge.tensorrt.network.convertible_graph import check_supported
from bridge.tensorrt.network.interpreter import FilledNetwork, fill_network
from bridge.tensorrt.network.op_converter import Conversion
from bridge.tensorrt.plugins.fields import VERSION, Call
from bridge.tensorrt.plugins.op_calls import convertible_calls, find_calls
from bridge.tensorrt.plugins.plugin_layers import plugins_for
from bridge.tensorrt.plugins.registration import register_plugins
from bridge.tensorrt.plugins.requirements import check_targets, libraries_of, requirements

# The settings that an engine depends on; the others affect only how it is called, cached or reported.
_BUILD_SETTINGS = ("optimization_level", "workspace_size", "tf32", "tuned_profile", "generate", "embed")


@dataclass(frozen=True)
class BuildResult:
    """An engine file, and whether it came from the cache."""

    file: EngineFile
    from_cache: bool


def rewrite(program: ExportedProgram, session: Session) -> tuple[ExportedProgram, list[Outcome]]:
    """A copy of the program after the graph rewrites that the config selects, and what they did.

    ExportError: functionalisation, or the shapes of an op, specialised a dynamic dimension.
    """
    program = with_valid_names(program)
    with log.step("passes") as note, checking_lowering(program), without_input_guards(program):
        names = pass_names(session.config.passes, session.flavour.name, session.target)
        program, outcomes = apply_passes(program, names, by_default=session.config.passes is True)
        note(f"{sum(outcome.replaced for outcome in outcomes)} of {len(outcomes)} places rewritten")
    return program, outcomes


def compile_program(
    program: ExportedProgram,
    specs: Mapping[str, TensorSpec],
    session: Session,
    metadata: Mapping[str, Any],
    outcomes: Sequence[Outcome] = (),
    variables: Sequence[str] = (),
) -> BuildResult:
    """The engine of an exported program, from the cache or built. Call it within `session.converting()`.

    specs: of every tensor input, by placeholder. metadata: for the engine file. outcomes: of `rewrite`, for the engine
    file; they are no part of the cache key. variables: names of the results, where the program's structure has none.
    ExportError, UnsupportedOpError, BuildError: as bridge.compile has them.
    """
    program = with_marked_generated(program, session)
    tensors = {**program.state_dict, **program.constants, **_inner_graphs(program.graph_module)}
    specs_of_call = {"in_spec": str(program.call_spec.in_spec), "out_spec": str(program.call_spec.out_spec)}
    program_key = {**specs_of_call, "variables": list(variables)}
    module = program.graph_module
    result = _get_or_build(
        module, tensors, specs, session, metadata, program_key, lambda: _build(program, specs, session, variables)
    )
    rows = [outcome.row() for outcome in outcomes]
    return dataclasses.replace(
        result, file=dataclasses.replace(result.file, metadata={**result.file.metadata, "passes": rows})
    )


def compile_module(
    module: GraphModule,
    specs: Mapping[str, TensorSpec],
    session: Session,
    settings: Any,
    metadata: Mapping[str, Any],
) -> BuildResult:
    """The engine of a graph that was lowered with `settings`; it takes tensors and returns a tuple of tensors."""

    def convert() -> EngineFile:
        started = time.monotonic()
        take_errors(session.flavour)
        count = len(module.graph.output_node().args[0])  # type: ignore[arg-type]
        names = [f"output{index}" for index in range(count)]
        return _convert(module, specs, names, call_structure.of_tensors(list(specs), count), session, settings, started)

    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers()), **_inner_graphs(module)}
    return _get_or_build(module, tensors, specs, session, metadata, {}, convert)


def engine_metadata(name: str, parameters: int, flavour: Flavour) -> dict[str, Any]:
    """The metadata of every engine file."""
    return {
        "model": name,
        "parameters": parameters,
        "bridge": __version__,
        "torch": torch.__version__,
        "torch_tensorrt": flavour.torch_tensorrt_version,
    }


def _get_or_build(
    module: GraphModule,
    tensors: Mapping[str, Any],
    specs: Mapping[str, TensorSpec],
    session: Session,
    metadata: Mapping[str, Any],
    program_key: Mapping[str, Any],
    convert: Callable[[], EngineFile],
) -> BuildResult:
    def build_file() -> EngineFile:
        file = convert()
        return dataclasses.replace(file, metadata={**file.metadata, **metadata})

    cache = EngineCache.of(session.config)
    if cache is None:
        return BuildResult(build_file(), False)
    calls = convertible_calls(module)
    choices = session.choose(calls)
    key_parts = {
        **program_key,
        "lowerings": sorted({(choice.kind, choice.lowering) for choice in choices}),
        "specs": list(specs.values()),
        "metadata": dict(metadata),
        "target": session.target,
        "settings": {name: getattr(session.config, name) for name in _BUILD_SETTINGS},
        "environment": build_environment(session.flavour, libraries_of(call.op for call in calls)),
    }
    try:
        with log.step("cache key"):
            key_parts["process state"] = process_state(module.graph)
            key = engine_key(module.graph, tensors, key_parts)
    except NoKeyError as error:
        log.logger.info("not cached: %s", error)
        return BuildResult(build_file(), False)
    file, from_cache = cache.get_or_build(key, build_file)
    return BuildResult(_with_current_reasons(file, choices), from_cache)


def _with_current_reasons(file: EngineFile, choices: Sequence[Choice]) -> EngineFile:
    """A cached engine with the current reasons for its lowerings, which may differ from those at its build."""
    reasons = {(choice.kind, choice.lowering): choice.why for choice in choices}
    rows = file.metadata.get("lowerings", [])
    current = [{**row, "why": reasons.get((row["kind"], row["lowering"]), row["why"])} for row in rows]
    return dataclasses.replace(file, metadata={**file.metadata, "lowerings": current})


def _inner_graphs(module: GraphModule) -> dict[str, GraphModule]:
    """The submodules of control flow, by name: branches and loop bodies."""
    return {name: inner for name, inner in module.named_modules() if name and isinstance(inner, GraphModule)}


def _build(
    program: ExportedProgram, specs: Mapping[str, TensorSpec], session: Session, variables: Sequence[str]
) -> EngineFile:
    started = time.monotonic()
    take_errors(session.flavour)  # of earlier work
    module, settings = lowered_and_generated(program, specs, session)
    check_supported(module, session.flavour)
    inputs = {node.target: specs[node.target] for node in module.graph.find_nodes(op="placeholder") if node.users}
    output_map, names = call_structure.flatten_outputs(module, program, list(inputs), variables)
    structure = call_structure.of_program(program, list(inputs), output_map)
    with explaining_empty_inputs(inputs):
        return _convert(module, inputs, names, structure, session, settings, started)


@dataclass(frozen=True)
class _Conversion:
    """A network that was filled from a graph, with the calls of bridge's ops in it."""

    builder: Any
    network: Any
    filled: FilledNetwork
    layers: list[dict[str, Any]]
    choices: Sequence[Choice]
    plugins: Sequence[Call]


def _convert(
    module: GraphModule,
    inputs: Mapping[str, TensorSpec],
    outputs: Sequence[str],
    structure: call_structure.CallStructure,
    session: Session,
    settings: Any,
    started: float,
) -> EngineFile:
    """The engine file of a lowered graph. started: when the work on it began, by time.monotonic()."""
    conversion = _fill(module, inputs, outputs, session, settings)
    libraries = libraries_of(call.op for call in conversion.plugins)
    embedded = [each.plugin_library() for each in libraries] if session.config.embed else []
    return EngineFile(
        engine=_engine_of(conversion, session, embedded),
        flavour=session.flavour.name,
        tensorrt_version=session.flavour.version,
        target=session.target,
        plugins={call.op.name: VERSION for call in conversion.plugins},
        inputs=tuple(inputs.values()),
        outputs=inventory.outputs(conversion.network),
        layers=conversion.layers,
        in_spec=structure.in_spec,
        out_spec=structure.out_spec,
        output_map=structure.output_map,
        metadata={
            "arguments": structure.arguments,
            "input_map": structure.input_map,
            "extents": symbolic_shapes(_named_nodes(module, inputs, outputs)),
            "nodes": conversion.filled.nodes,
            "lowerings": [asdict(choice) for choice in conversion.choices],
            "libraries": [asdict(each) for each in requirements(libraries)],
            "embedded": bool(embedded),
            "generated": store.summaries((call.op for call in conversion.plugins), session.target),
            "build_seconds": round(time.monotonic() - started, 3),
        },
    )


def _engine_of(conversion: _Conversion, session: Session, embedded: Sequence[Path]) -> bytes:
    flavour, profiles = session.flavour, conversion.filled.profiles
    with log.step(f"build for {session.target}") as note:
        engine = build.build_engine(
            flavour, conversion.builder, conversion.network, profiles, session.target, session.config, embedded
        )
        note(f"{len(engine):,} bytes")
    return engine


def _named_nodes(module: GraphModule, inputs: Iterable[str], outputs: Sequence[str]) -> dict[str, Node]:
    """The nodes of an engine's inputs and outputs."""
    placeholders = {str(node.target): node for node in module.graph.find_nodes(op="placeholder")}
    results = module.graph.output_node().args[0]
    return {name: placeholders[name] for name in inputs} | dict(zip(outputs, results, strict=True))  # type: ignore[arg-type]


def _fill(
    module: GraphModule, inputs: Mapping[str, TensorSpec], outputs: Sequence[str], session: Session, settings: Any
) -> _Conversion:
    flavour = session.flavour
    calls = find_calls(module)
    choices = session.choose(calls)
    native_nodes = frozenset(choice.node for choice in choices if choice.lowering == NATIVE)
    plugins = [call for call in calls if call.name not in native_nodes]
    with log.step("conversion") as note:
        ops = [call.op for call in plugins]
        check_targets(ops, session.target)
        register_plugins(flavour.trt(), libraries_of(ops))
        builder, network = build.create_network(flavour)
        named = {call.name: call for call in calls}
        conversion = Conversion(plugins_for(flavour, network, plugins), named, native=native_nodes)
        filled = fill_network(flavour, module, settings, builder, network, conversion, inputs, outputs)
        layers = inventory.layers(network, conversion.layers)
        _check_plugins(layers, plugins)
        note(f"{len(layers)} layers, {len(plugins)} of them plugins")
    return _Conversion(builder, network, filled, layers, choices, plugins)


def _check_plugins(layers: Sequence[Mapping[str, Any]], calls: Sequence[Call]) -> None:
    expected = Counter(call.op.name for call in calls)
    added = Counter(layer["op"] for layer in layers if layer["type"] == "PLUGIN_V3")
    if added != expected:
        raise BuildError(
            f"the graph needs the plugins {dict(expected)}, but the network the plugin layers {dict(added)}"
        )
