"""bridge.tune: times a model's ops as plugins and as native TensorRT layers, and the configurations of autotuned
kernels; stores which is fastest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from bridge.base import log
from bridge.base.text import columns
from bridge.config import Config
from bridge.doors.compiler import CapturedModel, capture, resolve_config
from bridge.doors.lowerings import configuration_tuner, lowering_choice, measured_configurations, measured_lowerings
from bridge.doors.lowerings.measured_configurations import MeasuredConfiguration
from bridge.doors.lowerings.measured_lowerings import Measurement
from bridge.doors.lowerings.measurement_file import setup_of
from bridge.doors.session import Session
from bridge.engine.call_structure import CallStructure
from bridge.engine.compiled import CompiledModule
from bridge.engine.error_metric import largest_error
from bridge.engine.timing import compare, noise
from bridge.errors import EngineError, TargetError
from bridge.graph.programs import copied
from bridge.tensorrt import native_lowerings
from bridge.tensorrt.install import gpu
from bridge.tensorrt.native_lowerings import NATIVE, PLUGIN
from bridge.tensorrt.plugins.op_calls import convertible_calls
from bridge.tensorrt.run.engine import Engine


@dataclass(frozen=True)
class Tuning:
    """The measurements; print it for tables.

    left_out: the kinds of calls and of launches that were not measured, and why. configurations: of autotuned kernels.
    """

    measurements: tuple[Measurement, ...]
    left_out: Mapping[str, str]
    configurations: tuple[MeasuredConfiguration, ...] = ()

    def __str__(self) -> str:
        tables = [_lowering_table(self.measurements), _configuration_table(self.configurations)]
        found = list(filter(None, tables)) or ["nothing was measured"]
        if self.left_out:
            found.append("left out\n" + columns([(kind, reason) for kind, reason in self.left_out.items()]))
        return "\n\n".join(found)


def _lowering_table(measurements: Sequence[Measurement]) -> str:
    rows = [
        (
            item.kind,
            f"{item.plugin_us:.1f}",
            f"{item.native_us:.1f}",
            item.lowering + (" (results differ)" if not item.agrees else " (tie)" if item.tie else ""),
        )
        for item in measurements
    ]
    heading = ("µs a run of the engine", PLUGIN, NATIVE, "chosen")
    return columns([heading, *rows], indent=0, heading=True) if rows else ""


def _configuration_table(measurements: Sequence[MeasuredConfiguration]) -> str:
    rows = [
        (
            item.kind,
            f"{item.first_us:.1f}",
            f"{item.us:.1f}",
            f"{item.text} (number {item.index + 1} of {item.count})",
        )
        for item in measurements
    ]
    heading = ("µs a run of the plugin", "first", "chosen", "configuration")
    return columns([heading, *rows], indent=0, heading=True) if rows else ""


def tune(
    model: torch.nn.Module | ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    config: Config | None = None,
    **settings: Any,
) -> Tuning:
    """Times a model's engine on this GPU with each lowering of its ops, and stores the results; and the configurations
    of autotuned kernels in generated plugins.

    A kind of call is an op with its attributes, dtypes, and shapes rounded up to powers of two. For each kind whose
    `lowering` is "auto", two engines are built: one with the plugin, one with native layers. Other calls keep their
    default. Both are timed on the example arguments. Later compilations for this GPU, TensorRT and bridge use the
    faster lowering for calls of that kind. They use the default if the times differ by no more than the noise. They
    use the plugin, and a warning is logged, if the results differ by more than rounding explains.

    A kernel under `triton.autotune`, or one of Inductor's, has several configurations. TensorRT-RTX measures none of
    them. Each is timed here in an engine of the plugin alone, on the tensors that the model gives it. The plugin of
    later compilations has the fastest alone, for extents that round up to the same powers of two.

    The arguments are those of bridge.compile; the model is not changed, and no engine is returned.

    Raises:
        EngineError: there is no GPU to measure on.
        TargetError: the target is another GPU.
        OSError: the cache folder, which holds the results, cannot be written to.
        BridgeError: any error that bridge.compile raises.
    """
    session = _measuring_session(resolve_config(config, settings))
    with session.converting():
        captured = capture(session, model, args, kwargs, dynamic_shapes)
    kinds, left_out = kinds_of(captured, session)

    def inputs_of(compiled: CompiledModule) -> list[Tensor]:
        return example_inputs(compiled, model, args, kwargs)

    configurations = _tune_configurations(captured, session, inputs_of, left_out)
    chosen = {each.kind: each.index for each in configurations}
    session = replace(session, selection=replace(session.selection, chosen=chosen))
    measurements = _tune_lowerings(captured, session, kinds, inputs_of)
    return Tuning(tuple(measurements), left_out, tuple(configurations))


_InputsOf = Callable[[CompiledModule], list[Tensor]]


def _tune_lowerings(
    captured: CapturedModel, session: Session, kinds: Mapping[str, str], inputs_of: _InputsOf
) -> list[Measurement]:
    measurements: list[Measurement] = []
    inputs: list[Tensor] = []
    for kind, op in kinds.items():
        with log.step(f"measuring {kind}") as note:
            pair = [compile_as(captured, session, {kind: lowering}) for lowering in (PLUGIN, NATIVE)]
            inputs = inputs or inputs_of(pair[0])
            measurements.append(_measure(pair, inputs, kind, op, session))
            note(measurements[-1].why)
    if measurements:
        measured_lowerings.FILE.store(session.config, measurements)
    return measurements


def _tune_configurations(
    captured: CapturedModel, session: Session, inputs_of: _InputsOf, left_out: dict[str, str]
) -> list[MeasuredConfiguration]:
    if session.flavour.traits.measures_tactics:
        return []
    # Generated ops take the place of operators in it, with what is not measured yet.
    captured = replace(captured, program=captured.program._update(*copied(captured.program)))
    with session.converting():
        module = configuration_tuner.generated_graph(captured, session)
        if not configuration_tuner.autotuned_ops(module):
            return []
        compiled = captured.compile(session)
    inputs = dict(zip([spec.name for spec in compiled.file.inputs], inputs_of(compiled), strict=True))
    measurements, rest = configuration_tuner.measure_configurations(module, inputs, session)
    left_out.update(rest)
    if measurements:
        measured_configurations.FILE.store(session.config, measurements)
    return measurements


def _measuring_session(config: Config) -> Session:
    """A session for the GPU of this machine, without earlier measurements."""
    _check_gpu()
    session = Session.of(config)
    session = replace(session, measured={}, selection=replace(session.selection, chosen={}))
    _check_target(session.target)
    return session


def _check_gpu() -> None:
    if not torch.cuda.is_available():
        raise EngineError(
            "there is no CUDA GPU here to measure on; run bridge.tune on a machine with the target's GPU, or choose by"
            ' hand, such as lowering={"rope": "native"}'
        )


def _check_target(target: str) -> None:
    current = gpu.current_target()
    if target != current:
        raise TargetError(
            f"target is {target}, but engines are timed on the GPU of this machine, {current}: leave it out"
        )


def kinds_of(captured: CapturedModel, session: Session) -> tuple[dict[str, str], dict[str, str]]:
    """The kinds of calls to measure with their ops, and those left out with the reasons."""
    kinds: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for call in convertible_calls(captured.program.graph_module):
        kind, op = lowering_choice.call_kind(call), call.op.name
        requested = session.config.lowering_of(op)
        reason = native_lowerings.refusal(call, session.flavour.trt())
        if requested != "auto":
            left_out[kind] = f'the setting requests "{requested}"'
        elif reason is not None:
            left_out[kind] = reason
        else:
            kinds[kind] = op
    return kinds, left_out


def compile_as(captured: CapturedModel, session: Session, lowerings: Mapping[str, str]) -> CompiledModule:
    """The engine with these lowerings by kind of call; other kinds get their default."""
    facts: dict[str, Any] = dict.fromkeys(("gpu", "target", "flavour", "tensorrt", "bridge", "measured"), "")
    blank = Measurement(kind="", lowering=PLUGIN, plugin_us=0, native_us=0, noise_us=0, **facts)
    forced = {kind: replace(blank, kind=kind, lowering=lowering) for kind, lowering in lowerings.items()}
    session = replace(session, measured=forced)
    with session.converting():
        return captured.compile(session)


def _measure(
    modules: Sequence[CompiledModule], inputs: list[Tensor], kind: str, op: str, session: Session
) -> Measurement:
    engines = [Engine(compiled.file) for compiled in modules]
    plugin, native = compare(engines, inputs)
    measurement = Measurement(
        kind=kind,
        lowering=PLUGIN if plugin.us < native.us else NATIVE,
        plugin_us=plugin.us,
        native_us=native.us,
        noise_us=noise(plugin, native),
        difference=largest_error(engines[1](*inputs), engines[0](*inputs)),
        **setup_of(session.flavour, session.target),
    )
    if not measurement.agrees:
        measurement = replace(measurement, lowering=PLUGIN)
        log.logger.warning("%s: %s", kind, measurement.why)
        return measurement
    return (
        replace(measurement, lowering=native_lowerings.default(op, session.flavour.name).lowering)
        if measurement.tie
        else measurement
    )


def example_inputs(
    compiled: CompiledModule, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None
) -> list[Tensor]:
    """The engine's inputs from the example arguments, on the GPU."""
    if isinstance(model, ExportedProgram):
        if model.example_inputs is None:
            raise ValueError("the ExportedProgram has no example arguments to time its engine on; export it again")
        args, kwargs = model.example_inputs
    tensors = CallStructure.of_file(compiled.file).flatten(tuple(args), dict(kwargs or {}))
    return [tensor.detach().cuda().contiguous() for tensor in tensors]
