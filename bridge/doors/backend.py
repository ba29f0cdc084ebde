"""torch.compile(model, backend="bridge"): every graph becomes an engine, or an error says why not."""

import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._guards import tracing
from torch.export import ExportedProgram
from torch.fx import GraphModule

import bridge.doors.preload  # noqa: F401  (first: Ctrl-C must not interrupt its imports)
from bridge.base import log
from bridge.config import Config
from bridge.doors import partition, strict
from bridge.doors.dynamic import add_guards, dynamic_dims, specialize, specialize_named
from bridge.doors.lifted_graph import LiftedGraph, SymbolicOutput, lift_graph
from bridge.doors.pipeline import compile_program, engine_metadata, rewrite
from bridge.doors.reporting import Graph, record
from bridge.doors.session import Session
from bridge.engine.compiled import CompiledModule
from bridge.engine_file.contents import TensorSpec
from bridge.errors import ExportError, SpecializedError
from bridge.graph import dynamo
from bridge.graph.capture import export
from bridge.graph.shape_profile import input_specs

_MAX_COMPILED = 8  # sets of weights that one graph keeps engines for


@log.some_stderr()
def bridge_backend(
    gm: GraphModule, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, mode: str | None = None
) -> Callable[..., Any]:
    """The backend of torch.compile, found by its entry point without an import of bridge.

    options: settings of bridge.Config, e.g. {"target": "sm86", "fallback": True}. mode: None, or "reduce-overhead"
    for cuda_graph=True.

    Parameters and buffers become constants of the engine; other or modified ones build another engine. Extents without
    an upper bound get one (Config.growth); larger extents recompile.

    Raises:
        GraphBreakError: unless fallback is set, the function has a graph break or was recompiled too often, or a call
            ran no engine.
        UnsupportedOpError, ExportError, BuildError: as from bridge.compile.
        TypeError, ValueError: an option does not exist, or does not take that value.
    """
    session = Session.of(_config(options, mode))
    frame = dynamo.current_frame(gm)
    if not session.config.fallback:
        strict.check_no_graph_break(frame)
        strict.check_recompile_limit(frame)
    _check_no_gradients(gm, example_inputs)
    graph = Graph(str(frame), frame.compile_id, graph_break=frame.graph_break)
    with session.converting(), tracing(None):
        compiled = CompiledGraph(session, lift_graph(gm, example_inputs), example_inputs, frame.function, graph)
    record(dynamo.owner_of_current_graph(), graph)
    return compiled


strict.check_calls(bridge_backend)


class CompiledGraph:
    """A graph of torch.compile with its engines; called with the graph's arguments, weights included."""

    def __init__(self, session: Session, lifted: LiftedGraph, args: Sequence[Any], name: str, graph: Graph) -> None:
        self._session = session
        self._lifted = lifted
        self._name = name
        self._graph = graph
        self._lock = threading.Lock()
        # Detached: torch.export removes the marks of mark_dynamic from the tensors it gets.
        self._example = [args[index].detach() for index in lifted.inputs]
        self._dims = dynamic_dims(lifted.fakes, session.config.growth)
        self._compiled: list[_GraphForWeights] = []
        self._add_compiled(self._weights(args), self._compile_guarded())
        self._example = [_shape_only(tensor) for tensor in self._example]

    def __call__(self, *args: Any) -> Sequence[Any]:
        """The graph's results."""
        strict.count_engine_run()
        run = self._compiled_for(self._weights(args))
        results = run(*[args[index] for index in self._lifted.inputs])
        if self._lifted.returns_module_outputs:
            return results
        return tuple(_graph_result(output, results, args) for output in self._lifted.outputs)

    def _weights(self, args: Sequence[Any]) -> tuple[Tensor, ...]:
        return tuple([args[index] for index in self._lifted.weights.values()])

    def _compiled_for(self, weights: tuple[Tensor, ...]) -> Callable[..., Any]:
        """The compiled graph for these weights: torch.compile shares one graph among modules of a class."""
        for compiled in self._compiled:
            if compiled.is_for(weights):
                return compiled.call
        with self._lock:
            return self._rebuild(weights)

    def _rebuild(self, weights: tuple[Tensor, ...]) -> Callable[..., Any]:
        log.logger.warning("%s: its weights are not those of its engines; compiling another", self._name)
        for name, weight in zip(self._lifted.weights, weights, strict=True):
            setattr(self._lifted.module, name, weight.detach())
        with self._session.converting():
            program = self._export()
            run = self._compile(program, input_specs(program))
        self._graph.rebuilt += 1
        self._add_compiled(weights, run)
        return run

    def _add_compiled(self, weights: tuple[Tensor, ...], call: Callable[..., Any]) -> None:
        others = [other for other in self._compiled if not all(map(operator.is_, weights, other.weights))]
        self._compiled = [_GraphForWeights(weights, call), *others][:_MAX_COMPILED]

    def _compile_guarded(self) -> Callable[..., Any]:
        """Compiles, and adds guards for what the engine assumes, such as extents that torch specialised."""
        program = self._export()
        specs = input_specs(program)
        add_guards(self._lifted.fakes, program, specs)
        try:
            return self._compile(program, specs)
        except SpecializedError as error:
            names = self._input_names()
            specialized = [(names.index(name), axis) for name, axis in error.dimensions]
            specialize(self._lifted.fakes, specialized)
            self._dims = dynamic_dims(self._lifted.fakes, self._session.config.growth)
            self._warn_specialized(specialized)
        return self._compile_guarded()

    def _input_names(self) -> list[str]:
        return [node.name for node in self._lifted.module.graph.find_nodes(op="placeholder")]

    def _export(self) -> ExportedProgram:
        try:
            with log.step("export"):
                return export(self._lifted.module, self._example, {}, self._dims if any(self._dims) else None)
        except ExportError as error:
            specialized = specialize_named(self._lifted.fakes, self._dims, str(error))
            if not specialized:
                raise
            self._warn_specialized(specialized)
        return self._export()

    def _warn_specialized(self, specialized: Sequence[tuple[int, int]]) -> None:
        names = self._input_names()
        extents = [f"{names[index]}.shape[{axis}] = {self._example[index].shape[axis]}" for index, axis in specialized]
        log.logger.warning(
            "%s: its engine is for %s alone, and other extents get one of their own: torch.export cannot capture it for"
            " several. torch._dynamo.mark_static, or dynamic=False, saves the time of trying",
            self._name,
            ", ".join(extents),
        )

    def _compile(self, program: ExportedProgram, specs: Mapping[str, TensorSpec]) -> Callable[..., Any]:
        _check_eval_mode(program)
        parameters = sum(weight.numel() for weight in self._lifted.module.buffers())
        metadata = engine_metadata(self._name, parameters, self._session.flavour)
        program, outcomes = rewrite(program, self._session)
        if self._session.config.fallback:
            self._graph.passes = [outcome.row() for outcome in outcomes]
            return partition.compile_parts(program, specs, self._session, metadata, self._graph)
        result = compile_program(program, specs, self._session, metadata, outcomes, self._lifted.variables)
        self._graph.engines.append(result.file)
        self._graph.from_cache.append(result.from_cache)
        return CompiledModule(result.file, from_cache=result.from_cache, **self._session.config.runtime)


class _GraphForWeights:
    """A graph compiled for certain weights, which are constants of its engine."""

    def __init__(self, weights: tuple[Tensor, ...], call: Callable[..., Any]) -> None:
        self.weights = weights
        self.call = call
        self._counted = [weight for weight in weights if not weight.is_inference()]  # torch counts writes to them
        self._versions = list(map(_VERSION, self._counted))

    def is_for(self, weights: tuple[Tensor, ...]) -> bool:
        return all(map(operator.is_, weights, self.weights)) and list(map(_VERSION, self._counted)) == self._versions


_VERSION = operator.attrgetter("_version")


def _config(options: Mapping[str, Any] | None, mode: str | None) -> Config:
    if mode not in (None, "default", "reduce-overhead"):
        raise ValueError(f'mode is {mode!r}; bridge has "default" and "reduce-overhead", which is cuda_graph=True')
    settings = dict(options or {})
    if mode == "reduce-overhead":
        settings.setdefault("cuda_graph", True)
    return Config().with_settings(settings)


def _check_no_gradients(gm: GraphModule, args: Sequence[Any]) -> None:
    if not torch.is_grad_enabled():
        return
    for node, value in zip(gm.graph.find_nodes(op="placeholder"), args, strict=True):
        if isinstance(value, Tensor) and value.requires_grad and not dynamo.is_weight(node):
            raise ExportError(
                f"{node.name} requires a gradient, which an engine does not compute; call under torch.no_grad()"
            )


_DROPOUT = torch.ops.aten.dropout.default


def _check_eval_mode(program: ExportedProgram) -> None:
    for node in program.graph.find_nodes(op="call_function", target=_DROPOUT):
        if node.args[2]:
            raise ExportError("the model is in training mode: it applies dropout; call model.eval() first")


def _graph_result(output: Any, results: Sequence[Any], args: Sequence[Any]) -> Any:
    if isinstance(output, int):
        return results[output]
    return output.evaluate(args) if isinstance(output, SymbolicOutput) else output[1]


def _shape_only(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, dtype and device with memory for one element."""
    return torch.empty((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
