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

import bridge.doors.preload  # noqa: F401  (first: Ctrl-C must not end what it imports half way)
from bridge.base import log
from bridge.config import Config
from bridge.doors import dynamo, partition, strict
from bridge.doors.dynamic import add_guards, dimensions, fix, fix_named
from bridge.doors.dynamo import Lifted, Number
from bridge.doors.pipeline import compile_program, describe, rewrite
from bridge.doors.reporting import Graph, record
from bridge.doors.session import Session
from bridge.engine.compiled import CompiledModule
from bridge.engine_file.contents import TensorSpec
from bridge.errors import ExportError, SpecializedError
from bridge.graph.capture import export
from bridge.graph.shape_profile import input_specs

_MOST_WEIGHTS = 8  # sets of weights for which one graph keeps engines


@log.some_stderr()
def bridge_backend(
    gm: GraphModule, example_inputs: Sequence[Any], *, options: Mapping[str, Any] | None = None, mode: str | None = None
) -> Callable[..., Any]:
    """The backend. torch.compile finds it by its entry point, without an import of bridge.

    options: settings of bridge.Config, e.g. {"target": "sm86", "fallback": True}. mode: None, or "reduce-overhead"
    for cuda_graph=True.

    The model's parameters and buffers become constants of the engine; a call with others, or after they were written
    to, builds another one. Extents that no one bounded get a bound (Config.growth), beyond which there is a recompile.

    Raises:
        GraphBreakError: the function has a graph break, or was compiled too often, unless fallback is set; or, from a
            call of what torch.compile returned, no engine ran in it.
        UnsupportedOpError, ExportError, BuildError: as bridge.compile has them.
        TypeError, ValueError: an option that does not exist, or a value that it does not take.
    """
    session = Session.of(_config(options, mode))
    frame = dynamo.current_frame(gm)
    if not session.config.fallback:
        strict.refuse_breaks(frame)
        strict.refuse_recompiles(frame)
    _refuse_gradients(gm, example_inputs)
    graph = Graph(str(frame), frame.compile_id, graph_break=frame.graph_break)
    with session.converting(), tracing(None):
        compiled = CompiledGraph(session, dynamo.lift(gm, example_inputs), example_inputs, frame.function, graph)
    record(dynamo.owner_of_current_graph(), graph)
    return compiled


strict.watch(bridge_backend)


class CompiledGraph:
    """A graph of torch.compile with its engine; it is called with the graph's arguments, weights included."""

    def __init__(self, session: Session, lifted: Lifted, args: Sequence[Any], name: str, graph: Graph) -> None:
        self._session = session
        self._lifted = lifted
        self._name = name
        self._graph = graph
        self._lock = threading.Lock()
        # Tensors of our own, for torch.export takes mark_dynamic's marks off those that it is given.
        self._example = [args[place].detach() for place in lifted.inputs]
        self._dims = dimensions(lifted.fakes, session.config.growth)
        self._runs: list[_Run] = []
        self._keep(self._weights(args), self._compile_guarded())
        self._example = [_shape_only(tensor) for tensor in self._example]

    def __call__(self, *args: Any) -> Sequence[Any]:
        """The graph's results."""
        strict.engine_runs()
        run = self._run_for(self._weights(args))
        results = run(*[args[place] for place in self._lifted.inputs])
        if self._lifted.plain:
            return results
        return tuple(_result(output, results, args) for output in self._lifted.outputs)

    def _weights(self, args: Sequence[Any]) -> tuple[Tensor, ...]:
        return tuple([args[place] for place in self._lifted.weights.values()])

    def _run_for(self, weights: tuple[Tensor, ...]) -> Callable[..., Any]:
        """What runs the graph with these weights: torch.compile shares a graph among modules of one class."""
        for run in self._runs:
            if run.is_for(weights):
                return run.call
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
        self._keep(weights, run)
        return run

    def _keep(self, weights: tuple[Tensor, ...], call: Callable[..., Any]) -> None:
        others = [run for run in self._runs if not all(map(operator.is_, weights, run.weights))]
        self._runs = [_Run(weights, call), *others][:_MOST_WEIGHTS]

    def _compile_guarded(self) -> Callable[..., Any]:
        """Compiles, and guards what the engine takes for granted; extents that torch fixes get a guard and no range."""
        program = self._export()
        specs = input_specs(program)
        add_guards(self._lifted.fakes, program, specs)
        try:
            return self._compile(program, specs)
        except SpecializedError as error:
            names = self._input_names()
            fixed = [(names.index(name), axis) for name, axis in error.dimensions]
            fix(self._lifted.fakes, fixed)
            self._dims = dimensions(self._lifted.fakes, self._session.config.growth)
            self._tell_fixed(fixed)
        return self._compile_guarded()

    def _input_names(self) -> list[str]:
        return [node.name for node in self._lifted.module.graph.find_nodes(op="placeholder")]

    def _export(self) -> ExportedProgram:
        try:
            with log.step("export"):
                return export(self._lifted.module, self._example, {}, self._dims if any(self._dims) else None)
        except ExportError as error:
            fixed = fix_named(self._lifted.fakes, self._dims, str(error))
            if not fixed:
                raise
            self._tell_fixed(fixed)
        return self._export()

    def _tell_fixed(self, fixed: Sequence[tuple[int, int]]) -> None:
        names = self._input_names()
        extents = [f"{names[place]}.shape[{axis}] = {self._example[place].shape[axis]}" for place, axis in fixed]
        log.logger.warning(
            "%s: its engine is for %s alone, and other extents get one of their own: torch.export cannot capture it for"
            " several. torch._dynamo.mark_static, or dynamic=False, saves the time of trying",
            self._name,
            ", ".join(extents),
        )

    def _compile(self, program: ExportedProgram, specs: Mapping[str, TensorSpec]) -> Callable[..., Any]:
        _refuse_training(program)
        parameters = sum(weight.numel() for weight in self._lifted.module.buffers())
        metadata = describe(self._name, parameters, self._session.flavour)
        program, outcomes = rewrite(program, self._session)
        if self._session.config.fallback:
            self._graph.passes = [outcome.row() for outcome in outcomes]
            return partition.compile_parts(program, specs, self._session, metadata, self._graph)
        built = compile_program(program, specs, self._session, metadata, outcomes)
        self._graph.engines.append(built.file)
        self._graph.from_cache.append(built.from_cache)
        return CompiledModule(built.file, from_cache=built.from_cache, **self._session.config.runtime)


class _Run:
    """What runs a graph with certain weights, as they were when it was compiled."""

    def __init__(self, weights: tuple[Tensor, ...], call: Callable[..., Any]) -> None:
        self.weights = weights
        self.call = call
        self._counted = [weight for weight in weights if not weight.is_inference()]  # torch counts writes to these
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


def _refuse_gradients(gm: GraphModule, args: Sequence[Any]) -> None:
    if not torch.is_grad_enabled():
        return
    for node, value in zip(gm.graph.find_nodes(op="placeholder"), args, strict=True):
        static = node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type")
        if isinstance(value, Tensor) and value.requires_grad and not static:
            raise ExportError(f"{node.name} requires a gradient, which an engine has not; call under torch.no_grad()")


_DROPOUT = torch.ops.aten.dropout.default


def _refuse_training(program: ExportedProgram) -> None:
    for node in program.graph.find_nodes(op="call_function", target=_DROPOUT):
        if node.args[2]:
            raise ExportError("the model is in training mode: it applies dropout; call model.eval() first")


def _result(output: Any, results: Sequence[Any], args: Sequence[Any]) -> Any:
    if isinstance(output, int):
        return results[output]
    return output.evaluate(args) if isinstance(output, Number) else output[1]


def _shape_only(tensor: Tensor) -> Tensor:
    """A tensor like it that holds one element."""
    return torch.empty((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
