"""bridge.tune: times a model's ops as plugins and as native TensorRT layers, and stores which is faster."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from bridge.base import log
from bridge.base.package import __version__
from bridge.base.text import columns
from bridge.config import Config
from bridge.doors.compiler import CapturedModel, capture, resolve_config
from bridge.doors.lowerings import lowering_choice, measured_lowerings
from bridge.doors.lowerings.measured_lowerings import Measurement
from bridge.doors.session import Session
from bridge.engine.call_structure import CallStructure
from bridge.engine.compiled import CompiledModule
from bridge.engine.error_metric import largest_error
from bridge.engine.timing import compare, noise
from bridge.errors import EngineError, TargetError
from bridge.tensorrt import native_lowerings
from bridge.tensorrt.install import gpu
from bridge.tensorrt.native_lowerings import NATIVE, PLUGIN
from bridge.tensorrt.plugins.op_calls import convertible_calls
from bridge.tensorrt.run.engine import Engine


@dataclass(frozen=True)
class Tuning:
    """The measurements; print it for a table. left_out: the kinds of calls that were not measured, and why."""

    measurements: tuple[Measurement, ...]
    left_out: Mapping[str, str]

    def __str__(self) -> str:
        rows = [
            (
                item.kind,
                f"{item.plugin_us:.1f}",
                f"{item.native_us:.1f}",
                item.lowering + (" (results differ)" if not item.agrees else " (tie)" if item.tie else ""),
            )
            for item in self.measurements
        ]
        header = ("µs a run of the engine", PLUGIN, NATIVE, "chosen")
        table = columns([header, *rows], indent=0) if rows else "nothing was measured"
        rest = columns([(kind, reason) for kind, reason in self.left_out.items()]) if self.left_out else ""
        return table + (f"\n\nleft out\n{rest}" if rest else "")


def tune(
    model: torch.nn.Module | ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    config: Config | None = None,
    **settings: Any,
) -> Tuning:
    """Times a model's engine on this GPU with each lowering of its ops, and stores the results.

    A kind of call is an op with its attributes, dtypes, and shapes rounded up to powers of two. For each kind whose
    `lowering` is "auto", two engines are built: one with the plugin, one with native layers. Other calls keep their
    default. Both are timed on the example arguments. Later compilations for this GPU, TensorRT and bridge use the
    faster lowering for calls of that kind. They use the default if the times differ by no more than the noise. They
    use the plugin, and a warning is logged, if the results differ by more than rounding explains.

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
    measurements: list[Measurement] = []
    inputs: list[Tensor] = []
    for kind, op in kinds.items():
        with log.step(f"measuring {kind}") as note:
            pair = [compile_as(captured, session, {kind: lowering}) for lowering in (PLUGIN, NATIVE)]
            inputs = inputs or example_inputs(pair[0], model, args, kwargs)
            measurements.append(_measure(pair, inputs, kind, op, session))
            note(measurements[-1].why)
    if measurements:
        measured_lowerings.store_measurements(session.config, measurements)
    return Tuning(tuple(measurements), left_out)


def _measuring_session(config: Config) -> Session:
    """A session for the GPU of this machine, without earlier measurements."""
    _check_gpu()
    session = replace(Session.of(config), measured={})
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
    forced = {
        kind: Measurement(kind, lowering, 0.0, 0.0, 0.0, "", "", "", "", "", "") for kind, lowering in lowerings.items()
    }
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
        gpu=torch.cuda.get_device_name(),
        target=session.target,
        flavour=session.flavour.name,
        tensorrt=session.flavour.version,
        bridge=__version__,
        measured=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        difference=largest_error(engines[1](*inputs), engines[0](*inputs)),
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
