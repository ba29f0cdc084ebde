"""A graph of torch.compile as a module that torch.export takes: tensors in, tensors out."""

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from bridge.errors import ExportError
from bridge.graph import dynamo
from bridge.graph.scalar_inputs import is_dynamic, is_float_input, replace_number_input, specialize_float

_REGISTRIES = ("_modules", "_parameters", "_buffers")  # attributes of torch.nn.Module, in the names of sources


def _evaluate(expression: sympy.Basic, values: Mapping[sympy.Symbol, Any]) -> Any:
    """The value of a symbolic expression for these values of its symbols."""
    from torch.utils._sympy.interp import sympy_interp
    from torch.utils._sympy.reference import PythonReferenceAnalysis

    return sympy_interp(PythonReferenceAnalysis, dict(values), expression)


@dataclass(frozen=True)
class SymbolicOutput:
    """A scalar that a graph returns, as an expression in the extents and scalars of its arguments."""

    expression: sympy.Expr
    origins: Mapping[sympy.Symbol, tuple[int, int | None]]  # (argument, axis); axis is None for a scalar

    def evaluate(self, args: Sequence[Any]) -> int:
        """Its value in a call."""
        values = {s: args[i] if axis is None else args[i].shape[axis] for s, (i, axis) in self.origins.items()}
        return int(_evaluate(self.expression, values))


@dataclass
class LiftedGraph:
    """A graph of torch.compile as a module that takes tensors and returns a tuple of tensors.

    inputs: for each input of the module, its index among the graph's arguments. fakes: the same inputs as torch.compile
    traced them. weights: the index of each of the model's parameters and buffers, which are buffers of the module.
    outputs: for each result of the graph the index of the module's output, a SymbolicOutput, or ("literal", value).
    variables: for each output of the module its name in the graph: a variable of the model's code, or an operator.
    """

    module: GraphModule
    inputs: list[int] = field(default_factory=list)
    fakes: list[Tensor] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)
    variables: list[str] = field(default_factory=list)

    @property
    def returns_module_outputs(self) -> bool:
        """Whether the graph returns what the module does."""
        return self.outputs == list(range(len(self.outputs)))


def lift_graph(gm: GraphModule, args: Sequence[Any]) -> LiftedGraph:
    """Splits a copy of a graph into module, tensors and scalars.

    ExportError: it takes something that is neither a tensor nor an integer.
    """
    lifted = LiftedGraph(GraphModule(gm, gm.graph.__deepcopy__()))
    graph = lifted.module.graph
    scalars: list[tuple[Node, torch.SymInt]] = []
    symbols: dict[sympy.Symbol, tuple[int, int | None]] = {}
    used_names: set[str] = set()
    for index, (node, value) in enumerate(zip(graph.find_nodes(op="placeholder"), args, strict=True)):
        example = node.meta.get("example_value")
        if isinstance(example, torch.SymInt):
            scalars.append((node, example))
            if example.node.expr.is_Symbol:
                symbols[example.node.expr] = (index, None)
        elif not isinstance(example, Tensor):
            raise ExportError(
                f"the graph takes {dynamo.source_name(node)} = {value!r}, a {type(value).__name__}; pass a tensor"
            )
        elif dynamo.is_weight(node):
            _make_buffer(lifted, node, index, value)
        elif is_float_input(node):
            specialize_float(node)
        else:
            _name_input(node, used_names)
            lifted.inputs.append(index)
            lifted.fakes.append(example)
    for index, fake in zip(lifted.inputs, lifted.fakes, strict=True):
        for axis, extent in enumerate(fake.shape):
            if is_dynamic(extent) and extent.node.expr.is_Symbol:
                symbols.setdefault(extent.node.expr, (index, axis))
    for node, scalar in scalars:
        replace_number_input(node, scalar)
    _split_outputs(lifted, symbols)
    graph.lint()
    lifted.module.recompile()
    lifted.module.eval()
    return lifted


def _make_buffer(lifted: LiftedGraph, node: Node, index: int, value: Tensor) -> None:
    """Turns a placeholder into a buffer of the module, named as in the model."""
    words = [word for word in re.findall(r"\w+", dynamo.source_name(node))[2:] if word not in _REGISTRIES]
    name = "_".join(words) or node.name
    name = f"weight_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name
    while hasattr(lifted.module, name):
        name = f"{name}_{index}"
    lifted.module.register_buffer(name, value.detach())
    lifted.weights[name] = index
    with node.graph.inserting_before(node):
        attribute = node.graph.get_attr(name)
    attribute.meta = dict(node.meta)
    node.replace_all_uses_with(attribute)
    node.graph.erase_node(node)


def _split_outputs(lifted: LiftedGraph, symbols: Mapping[sympy.Symbol, tuple[int, int | None]]) -> None:
    """Keeps the tensor outputs; scalars are computed from the arguments of each call."""
    output = lifted.module.graph.output_node()
    tensors: list[Node] = []
    for result in output.args[0]:  # type: ignore[union-attr]
        example = result.meta.get("example_value") if isinstance(result, Node) else None
        if isinstance(example, torch.SymInt):
            used = {symbol: symbols[symbol] for symbol in example.node.expr.free_symbols if symbol in symbols}
            lifted.outputs.append(SymbolicOutput(example.node.expr, used))
        elif isinstance(result, Node) and not isinstance(example, (int, float, bool)):
            lifted.outputs.append(len(tensors))
            tensors.append(result)
        else:
            lifted.outputs.append(("literal", example if isinstance(result, Node) else result))
    lifted.variables = [tensor.name for tensor in tensors]
    # No dead code elimination: in-place writes have no users, and torch.export must see them.
    output.args = (tuple(tensors),)


def _name_input(node: Node, used_names: set[str]) -> None:
    """Names an input as in the model: x for L['x'], pair_x for L['pair']['x']."""
    words = re.findall(r"\w+", dynamo.source_name(node).removeprefix("L"))
    name = "_".join(word for word in words if word != "kwargs") or node.name
    name = name if not name[0].isdigit() else f"args_{name}"
    while name in used_names:
        name = f"{name}_input"
    used_names.add(name)
    for other in node.graph.nodes:
        if other.name == name and other is not node:
            other._rename(f"{name}_value")
    node.name = node.target = name
    node.graph._graph_namespace.create_name(name, None)  # reserves it
