"""Times the configurations of autotuned kernels in generated plugins, on the tensors that the model gives them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from bridge.base import log
from bridge.core import foreign
from bridge.doors.compiler import CapturedModel, capture
from bridge.doors.generation import with_marked_generated
from bridge.doors.lowered_graph import lowered_and_generated
from bridge.doors.lowerings.measured_configurations import MeasuredConfiguration
from bridge.doors.lowerings.measured_lowerings import ROUNDING
from bridge.doors.lowerings.measurement_file import setup_of
from bridge.doors.session import Session
from bridge.engine.error_metric import largest_error
from bridge.engine.timing import compare, noise
from bridge.errors import BuildError, UnsupportedOpError
from bridge.generate.configurations import autotuned, configuration_text, with_chosen
from bridge.generate.generated_op import GeneratedOp
from bridge.generate.graphs import built_op
from bridge.generate.program import Launch
from bridge.graph.one_call import OneCall
from bridge.tensorrt.run.engine import Engine

LeftOut = dict[str, str]


def generated_graph(captured: CapturedModel, session: Session) -> GraphModule:
    """A model's graph with its generated ops, which the model's program has then, too. Call it within
    `session.converting()`."""
    return lowered_and_generated(with_marked_generated(captured.program, session), captured.specs, session)[0]


def autotuned_ops(module: GraphModule) -> dict[str, GeneratedOp]:
    """The generated ops of a graph with kernels that have several configurations, by the first node that calls them."""
    targets = foreign.targets()
    first: dict[GeneratedOp, str] = {}
    for node in module.graph.nodes:
        op = targets.get(node.target)
        if isinstance(op, GeneratedOp) and _launches(op):
            first.setdefault(op, node.name)
    return {name: op for op, name in first.items()}


def _launches(op: GeneratedOp) -> dict[str, Launch]:
    return {} if op.instance is None else autotuned(op.instance)


def measure_configurations(
    module: GraphModule, inputs: Mapping[str, Tensor], session: Session
) -> tuple[list[MeasuredConfiguration], LeftOut]:
    """Times every configuration of every kernel that has several, and says which kinds of launches it left out.

    inputs: of the graph, by placeholder, on the GPU; those that nothing uses may be absent.
    """
    ops = autotuned_ops(module)
    measurements: list[MeasuredConfiguration] = []
    left_out: LeftOut = {}
    try:
        tensors = _arguments(module, inputs, set(ops))
    except Exception as error:  # of the user's own operator, on this GPU
        reason = f"the model does not run in PyTorch on this GPU: {type(error).__name__}: {error}"
        return [], {kind: reason for op in ops.values() for kind in _launches(op)}
    for name, op in ops.items():
        _measure_op(op, tensors[name], session, measurements, left_out)
    return measurements, left_out


class _Recorder(Interpreter):
    """Runs a graph, and keeps the arguments of some nodes."""

    def __init__(self, module: GraphModule, names: set[str]) -> None:
        super().__init__(module)
        self.arguments: dict[str, list[Tensor]] = {}
        self._names = names

    def run_node(self, node: Node) -> Any:
        """As ever."""
        if node.name in self._names:
            args, _ = self.fetch_args_kwargs_from_env(node)
            self.arguments[node.name] = [each.detach().contiguous().clone() for each in args]
        return super().run_node(node)


def _arguments(module: GraphModule, inputs: Mapping[str, Tensor], names: set[str]) -> dict[str, list[Tensor]]:
    """What the nodes of these names are called with."""
    device = next(iter(inputs.values())).device
    module = module.to(device)
    for node in module.graph.nodes:
        if isinstance(node.kwargs.get("device"), torch.device):
            node.kwargs = {**node.kwargs, "device": device}
    recorder = _Recorder(module, names)
    values = [inputs.get(str(node.target)) for node in module.graph.find_nodes(op="placeholder")]
    with torch.no_grad():
        recorder.run(*values, enable_io_processing=False)
    return recorder.arguments


def _measure_op(
    op: GeneratedOp,
    tensors: Sequence[Tensor],
    session: Session,
    measurements: list[MeasuredConfiguration],
    left_out: LeftOut,
) -> None:
    """Measures one kernel after another, those that came before with their best configuration."""
    known = {each.kind: each for each in measurements}
    for kind, launch in _launches(op).items():
        if kind in known:
            continue
        with log.step(f"measuring {kind}") as note:
            chosen = {each.kind: each.index for each in measurements}
            engines = _engines(op, kind, launch, chosen, tensors, session)
            if len(engines) < 2:
                left_out[kind] = f"{len(engines)} of {len(launch.configurations)} configurations fit this GPU"
                continue
            measurements.append(_measure(kind, launch, engines, tensors, session))
            note(measurements[-1].why)


def _engines(
    op: GeneratedOp,
    kind: str,
    launch: Launch,
    chosen: Mapping[str, int],
    tensors: Sequence[Tensor],
    session: Session,
) -> dict[int, Engine]:
    """An engine of the op alone, by the configuration of one launch; of those that fit the GPU."""
    assert op.instance is not None
    engines = {}
    for index, configuration in enumerate(launch.configurations):
        instance = with_chosen(op.instance, {**chosen, kind: index})
        try:
            variant = built_op(instance, op.tensors, session.target, op.reference, tactics=False)
        except (BuildError, UnsupportedOpError) as error:
            log.logger.debug("%s with %s is left out: %s", kind, configuration_text(configuration), error)
            continue
        with session.converting():
            captured = capture(session, OneCall(variant.overload).eval(), tensors, None, None)
            compiled = captured.compile(session)
        engines[index] = Engine(compiled.file)
    return engines


def _measure(
    kind: str, launch: Launch, engines: Mapping[int, Engine], tensors: Sequence[Tensor], session: Session
) -> MeasuredConfiguration:
    """The choice among engines by configuration, of which the first is the default."""
    first = next(iter(engines))
    timings = dict(zip(engines, compare(list(engines.values()), tensors), strict=True))
    expected = engines[first](*tensors)
    agreeing = {
        index: timings[index]
        for index, engine in engines.items()
        if index == first or _agrees(kind, launch, index, largest_error(engine(*tensors), expected))
    }
    best = min(agreeing, key=lambda index: agreeing[index].us)
    difference = noise(timings[best], timings[first])
    if timings[first].us - timings[best].us <= difference:
        best = first
    return MeasuredConfiguration(
        kind=kind,
        index=best,
        text=configuration_text(launch.configurations[best]),
        us=timings[best].us,
        first_us=timings[first].us,
        noise_us=difference,
        measured_count=len(engines),
        count=len(launch.configurations),
        **setup_of(session.flavour, session.target),
    )


def _agrees(kind: str, launch: Launch, index: int, error: float) -> bool:
    """Whether a configuration computes what the first one does; else a warning is logged."""
    if error <= ROUNDING:
        return True
    text = configuration_text(launch.configurations[index])
    log.logger.warning("%s with %s gives other results, by %.2g of the largest value: left out", kind, text, error)
    return False
