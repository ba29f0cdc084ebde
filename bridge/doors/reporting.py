"""bridge.report: a compiled model's graphs, their engines, and the operators that run in PyTorch, with reasons."""

import operator
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule

from bridge.base.text import columns, printable, shape_text, size
from bridge.engine import generated_table
from bridge.engine.compiled import CompiledModule
from bridge.engine.explain import lowering_counts, lowerings, pass_counts
from bridge.engine.explain import passes as engine_passes
from bridge.engine.node_table import plugin_counts
from bridge.engine_file.contents import EngineFile
from bridge.graph import dynamo
from bridge.graph.model_source import model_line, operator_name
from bridge.tensorrt.guest import engine_records

_RECORDS = "_bridge_graphs"  # attribute of an object that belongs to one call of torch.compile


@dataclass(frozen=True)
class TorchNode:
    """An operator that runs in PyTorch, why it does, and the line of the model that calls it."""

    operator: str
    reason: str
    line: str


@dataclass(frozen=True)
class TorchTensorRTEngine:
    """An engine that torch_tensorrt built: its name in the model, its bytes, and the layers of its network.

    layers: empty if another process built it, or bridge was imported later.
    """

    name: str
    engine: bytes = field(repr=False)
    layers: list[dict[str, Any]] = field(repr=False)


@dataclass
class Graph:
    """One graph of a compiled model.

    name: the function or model. recompiled: why it was recompiled, or None. graph_break: why the graph ends before the
    function does, or None. engines: one, or with fallback=True any number. rebuilt: how many more engines were built
    for other weights. passes: what graph rewrites did, unless an engine file says so.
    """

    name: str
    compile_id: str | None = None
    recompiled: str | None = None
    graph_break: str | None = None
    engines: list[EngineFile | TorchTensorRTEngine] = field(default_factory=list)
    from_cache: list[bool] = field(default_factory=list)
    torch_nodes: list[TorchNode] = field(default_factory=list)
    rebuilt: int = 0
    passes: list[dict[str, Any]] = field(default_factory=list)
    made: float = field(default_factory=time.time, repr=False)


@dataclass(frozen=True)
class Report:
    """The graphs of a compiled model. Print it."""

    graphs: tuple[Graph, ...]

    @property
    def engines(self) -> list[EngineFile | TorchTensorRTEngine]:
        """Every engine, in the order of compilation."""
        return [engine for graph in self.graphs for engine in graph.engines]

    @property
    def torch_nodes(self) -> list[TorchNode]:
        """Every operator that runs in PyTorch."""
        return [node for graph in self.graphs for node in graph.torch_nodes]

    @property
    def graph_breaks(self) -> list[str]:
        """Why each graph break happened."""
        return [graph.graph_break for graph in self.graphs if graph.graph_break]

    @property
    def recompiles(self) -> list[str]:
        """Why each recompile happened."""
        return [graph.recompiled for graph in self.graphs if graph.recompiled]

    def plugin_counts(self) -> Counter[str]:
        """The number of plugin layers of each op in all engines."""
        return sum((plugin_counts(engine.layers) for engine in self.engines), Counter())

    @property
    def lowerings(self) -> list[dict[str, Any]]:
        """Every use of an op in bridge's engines, with its "op", "lowering" ("plugin" or "native") and "why"."""
        return [row for engine in self.engines if isinstance(engine, EngineFile) for row in lowerings(engine)]

    @property
    def passes(self) -> list[dict[str, Any]]:
        """Where graph rewrites applied: "pass", "replaced", "what" (or why not), "line" and "module"."""
        return [row for graph in self.graphs for row in _pass_rows(graph)]

    def __str__(self) -> str:
        cached = sum(flag for graph in self.graphs for flag in graph.from_cache)
        rows = [
            ("graphs", str(len(self.graphs))),
            ("engines", f"{len(self.engines)}, {cached} from the cache"),
            ("plugin layers", _counts_text(self.plugin_counts())),
            ("graph breaks", str(len(self.graph_breaks))),
            ("recompiles", str(len(self.recompiles))),
            ("in PyTorch", f"{len(self.torch_nodes)} operators"),
        ]
        return "\n\n".join([columns(rows, indent=0), *map(_graph_text, self.graphs)])


def report(compiled: Any) -> Report:
    """The report of a model compiled by bridge.compile, torch_tensorrt.compile, or torch.compile with the backend
    "bridge" or "torch_tensorrt".

    With torch.compile a graph appears once its first call has compiled it.

    TypeError: it was compiled by none of them.
    """
    if isinstance(compiled, CompiledModule):
        name = printable(str(compiled.file.metadata.get("model")))
        return Report((Graph(name, engines=[compiled.file], from_cache=[compiled.from_cache]),))
    if isinstance(compiled, GraphModule) and any(map(_is_torch_tensorrt, compiled.modules())):
        return Report((_add_torch_tensorrt(Graph("torch_tensorrt"), compiled),))
    owner = dynamo.owner_of(compiled)
    if owner is None:
        raise TypeError(
            "bridge.report takes what bridge.compile, torch.compile(backend='bridge') or torch_tensorrt.compile"
            f" returned, not a {type(compiled).__name__}"
        )
    graphs: list[Graph] = getattr(owner, _RECORDS, [])
    _explain_recompiles(graphs)
    return Report(tuple(graphs))


def record(owner: Any, graph: Graph) -> None:
    """Stores a graph for `report`, for the lifetime of the compiled model."""
    if not hasattr(owner, _RECORDS):
        setattr(owner, _RECORDS, [])
    graphs = getattr(owner, _RECORDS)
    graphs.append(graph)
    _explain_recompiles(graphs)  # torch keeps only the latest ones


def _is_torch_tensorrt(module: Any) -> bool:
    return isinstance(getattr(module, "serialized_engine", None), (bytes, bytearray))


def record_torch_tensorrt(gm: GraphModule, module: GraphModule) -> None:
    """Stores the result of torch_tensorrt's backend for a graph of torch.compile."""
    frame = dynamo.current_frame(gm)
    graph = Graph(str(frame), frame.compile_id, graph_break=frame.graph_break)
    record(dynamo.owner_of_current_graph(), _add_torch_tensorrt(graph, module))


def _add_torch_tensorrt(graph: Graph, module: GraphModule) -> Graph:
    graph.passes = engine_records.passes_of(module)
    for name, part in module.named_modules():
        if _is_torch_tensorrt(part):
            engine = bytes(part.serialized_engine)
            graph.engines.append(TorchTensorRTEngine(name, engine, engine_records.layers_of(engine) or []))
            graph.from_cache.append(False)
    parts = [module, *(part for part in module.children() if isinstance(part, GraphModule))]
    nodes = [node for part in parts for node in part.graph.nodes if node.op == "call_function"]
    in_torch = [node for node in nodes if node.target is not operator.getitem]
    reason = "torch_tensorrt left it to PyTorch"
    graph.torch_nodes = [TorchNode(operator_name(node), reason, model_line(node)) for node in in_torch]
    return graph


def _explain_recompiles(graphs: list[Graph]) -> None:
    for graph in graphs:
        if graph.recompiled is None and graph.compile_id is not None:
            graph.recompiled = dynamo.recompile_reason(graph.compile_id, graph.made)


def _pass_rows(graph: Graph) -> list[dict[str, Any]]:
    files = [engine for engine in graph.engines if isinstance(engine, EngineFile)]
    return [*graph.passes, *(row for file in files for row in engine_passes(file))]


def _graph_text(graph: Graph) -> str:
    lines = [graph.name + (f", graph {graph.compile_id}" if graph.compile_id else "")]
    lines += [f"  recompiled: {graph.recompiled}"] if graph.recompiled else []
    lines += [f"  graph break: {graph.graph_break}"] if graph.graph_break else []
    lines += [f"  rebuilt {graph.rebuilt} times for other weights"] if graph.rebuilt else []
    for engine, cached in zip(graph.engines, graph.from_cache, strict=True):
        lines.append(_engine_text(engine, cached))
    rows = [(count, f"{what}: {line}") for count, what, line in pass_counts(_pass_rows(graph))]
    lines += [columns([("pass", *row) for row in rows])] if rows else []
    if graph.torch_nodes:
        lines.append(columns([(f"in PyTorch: {node.operator}", node.reason, node.line) for node in graph.torch_nodes]))
    return "\n".join(lines)


def _engine_text(file: EngineFile | TorchTensorRTEngine, cached: bool) -> str:
    if isinstance(file, TorchTensorRTEngine):
        layers = (
            f"{len(file.layers)} layers; plugins: {_counts_text(plugin_counts(file.layers))}"
            if file.layers
            else "layers not known"
        )
        return f"  engine {file.name}, {size(len(file.engine))}, {layers}"
    seconds = file.metadata.get("build_seconds")
    origin = "from the cache" if cached else f"built in {seconds} s"
    inputs = "; ".join(
        f"{spec.name} {shape_text(spec.min)} to {shape_text(spec.max)}, tuned for {shape_text(spec.opt)}"
        for spec in file.inputs
    )
    rows = lowering_counts(file)
    return (
        f"  engine for {file.target}, {size(len(file.engine))}, {len(file.layers)} layers, {origin};"
        f" plugins: {_counts_text(plugin_counts(file.layers))}\n    inputs: {inputs}"
        + "".join(f"\n    {count} {lowering}: {printable(why)}" for count, lowering, why in rows)
        + "".join(f"\n    {row['name']}: generated from {row['operator']}" for row in generated_table.rows(file))
    )


def _counts_text(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"
