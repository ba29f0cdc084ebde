"""What torch.compile hands to a backend: where a graph comes from, and a module of it that torch.export takes.

All that bridge reads of torch._dynamo's own structures is read here.
"""

import contextlib
import keyword
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from bridge.base.log import logger
from bridge.base.patches import add
from bridge.errors import ExportError
from bridge.graph.model_source import is_the_models
from bridge.graph.scalar_inputs import fix_float, is_dynamic, is_float, replace_number

_RESUMED = "torch_dynamo_resume_in_"
_REGISTRIES = ("_modules", "_parameters", "_buffers")  # of torch.nn.Module, in the names of sources


@dataclass(frozen=True)
class Frame:
    """The Python function that torch.compile was tracing.

    compile_id: torch's "frame/attempt", such as "0/1"; attempt counts the graphs of one function from 0.
    graph_break: why the graph ends before the function does, with the line, or None. resumed: it starts after one.
    skipped: the function of the model that calls it and runs in Python, or None.
    """

    function: str
    file: str
    line: int
    compile_id: str
    attempt: int
    graph_break: str | None
    resumed: bool
    skipped: str | None = None

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


def current_frame(gm: GraphModule) -> Frame:
    """Of the graph that a backend is called with."""
    code = _output_graph().root_tx.f_code
    compile_id = gm.meta.get("dynamo_compile_id")
    reason = getattr(gm, "compile_subgraph_reason", None)
    return Frame(
        function=code.co_name,
        file=code.co_filename,
        line=code.co_firstlineno,
        compile_id=str(compile_id),
        attempt=getattr(compile_id, "frame_compile_id", None) or 0,
        graph_break=_spell_break(reason) if reason is not None and reason.graph_break else None,
        resumed=code.co_name.startswith(_RESUMED),
        skipped=_caller_in_python(),
    )


def _caller_in_python() -> str | None:
    """The innermost function of the model that runs in Python now, below the call of what torch.compile returned."""
    found, frame = None, sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "compile_wrapper" and code.co_filename == _EVAL_FRAME:
            return found
        if found is None and is_the_models(code.co_filename):
            found = f"{code.co_name} ({code.co_filename}:{code.co_firstlineno})"
        frame = frame.f_back  # type: ignore[assignment]
    return None


_EVAL_FRAME = torch._dynamo.eval_frame.__file__


def recompile_limit() -> int:
    """How often torch.compile traces a function before it gives it up."""
    return int(torch._dynamo.config.recompile_limit)


def traces() -> bool:
    """Whether calls are traced here as a rule; torch.compiler.set_stance may ask for eager ones."""
    stance = getattr(torch._dynamo.eval_frame, "_stance", None)
    return getattr(stance, "stance", "default") == "default"


def watch_calls(context: Callable[[Any, Any], Callable[[], Any] | None]) -> None:
    """Enters a context around each call of a model that torch.compile compiles from now on.

    context: given the backend and its options (None: there are none), it returns what makes the context, or None.
    torch asks its wrapper of a backend for it, and copies nothing from the backend itself.
    """
    from torch._dynamo.repro import after_dynamo

    def backend_ctx_ctor(wrapper: Any) -> Callable[[], Any]:
        given = wrapper._torchdynamo_orig_backend
        options = getattr(given, "kwargs", {}).get("options")
        return context(getattr(given, "compiler_fn", given), options) or contextlib.nullcontext

    wrapper = getattr(after_dynamo, "WrapBackendDebug", None)
    if isinstance(wrapper, type):
        add(contextlib.ExitStack(), wrapper, "backend_ctx_ctor", property(backend_ctx_ctor))  # for good
    else:
        logger.warning("with torch %s a call in which no engine runs is not noticed", torch.__version__)


def owner_of_current_graph() -> Any:
    """An object that belongs to one torch.compile call, whose result `owner_of` finds it from."""
    return _output_graph().compiler_fn


def owner_of(compiled: Any) -> Any:
    """The same object, from what torch.compile returned; None where that is something else."""
    context = getattr(compiled, "dynamo_ctx", None)
    cells = [cell.cell_contents for cell in getattr(compiled, "__closure__", None) or () if _filled(cell)]
    for candidate in (context, *cells):
        callback = getattr(candidate, "callback", None)
        if callback is not None:
            return attrgetter("_torchdynamo_orig_backend._torchdynamo_orig_backend")(callback)
    return None


def recompile_reason(compile_id: str, moment: float) -> str | None:
    """Why torch.compile traced a function again, of the compilation that ran at that moment (time.time()).

    None: it was the first, is not over yet, or is one of those long ago that torch has forgotten.
    """
    for row in torch._dynamo.utils.get_compilation_metrics():
        start, end = row.start_time_us, row.end_time_us
        if str(row.compile_id) == compile_id and start and end and start <= moment * 1e6 <= end:
            return row.recompile_reason
    return None


def _output_graph() -> Any:
    from torch._dynamo.symbolic_convert import InstructionTranslator

    return InstructionTranslator.current_tx().output


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _spell_break(reason: Any) -> str:
    frame: traceback.FrameSummary | None = reason.user_stack[-1] if reason.user_stack else None
    where = f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" if frame is not None else "an unknown line"
    lines = [line.strip() for line in reason.reason.splitlines()]
    said = [line.removeprefix("Explanation: ") for line in lines if line and not line.startswith(_BREAK_BOILERPLATE)]
    return f"{'; '.join(said)}\n  {where}"


_BREAK_BOILERPLATE = ("Hint:", "Developer debug context", "For more details")


def evaluate(expression: sympy.Basic, values: Mapping[sympy.Symbol, Any]) -> Any:
    """A symbolic expression with numbers for its symbols, or with torch's symbolic ones."""
    from torch.utils._sympy.interp import sympy_interp
    from torch.utils._sympy.reference import PythonReferenceAnalysis

    return sympy_interp(PythonReferenceAnalysis, dict(values), expression)


@dataclass(frozen=True)
class Number:
    """A number that a graph returns: an expression in extents and numbers that it is called with."""

    expression: sympy.Expr
    places: Mapping[sympy.Symbol, tuple[int, int | None]]  # argument, and axis where that is a tensor

    def evaluate(self, args: Sequence[Any]) -> int:
        """Its value in a call."""
        values = {s: args[i] if axis is None else args[i].shape[axis] for s, (i, axis) in self.places.items()}
        return int(evaluate(self.expression, values))


@dataclass
class Lifted:
    """A graph of torch.compile as a module that takes its tensors alone and returns a tuple of tensors.

    inputs: the place among the graph's arguments of each tensor that the module takes; fakes: as torch.compile traced
    it. weights: the place of each buffer of the module that is an argument of the graph: the model's parameters and
    buffers. outputs: for each result of the graph the index of the module's, a Number, or ("literal", value).
    """

    module: GraphModule
    inputs: list[int] = field(default_factory=list)
    fakes: list[Tensor] = field(default_factory=list)
    weights: dict[str, int] = field(default_factory=dict)
    outputs: list[Any] = field(default_factory=list)

    @property
    def plain(self) -> bool:
        """Whether the graph returns just what the module does."""
        return self.outputs == list(range(len(self.outputs)))


def lift(gm: GraphModule, args: Sequence[Any]) -> Lifted:
    """Takes a graph apart into module, tensors and numbers; the graph itself stays as it is.

    ExportError: it takes something that is neither a tensor nor an integer.
    """
    lifted = Lifted(GraphModule(gm, gm.graph.__deepcopy__()))
    graph = lifted.module.graph
    numbers: list[tuple[Node, torch.SymInt]] = []
    symbols: dict[sympy.Symbol, tuple[int, int | None]] = {}
    taken: set[str] = set()
    for place, (node, value) in enumerate(zip(graph.find_nodes(op="placeholder"), args, strict=True)):
        example = node.meta.get("example_value")
        if isinstance(example, torch.SymInt):
            numbers.append((node, example))
            if example.node.expr.is_Symbol:
                symbols[example.node.expr] = (place, None)
        elif not isinstance(example, Tensor):
            raise ExportError(f"the graph takes {_source(node)} = {value!r}, a {type(value).__name__}; pass a tensor")
        elif node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type"):
            _bake(lifted, node, place, value)
        elif is_float(node):
            fix_float(node)
        else:
            _rename(node, taken)
            lifted.inputs.append(place)
            lifted.fakes.append(example)
    for place, fake in zip(lifted.inputs, lifted.fakes, strict=True):
        for axis, extent in enumerate(fake.shape):
            if is_dynamic(extent) and extent.node.expr.is_Symbol:
                symbols.setdefault(extent.node.expr, (place, axis))
    for node, number in numbers:
        replace_number(node, number)
    _split_outputs(lifted, symbols)
    graph.lint()
    lifted.module.recompile()
    lifted.module.eval()
    return lifted


def _bake(lifted: Lifted, node: Node, place: int, value: Tensor) -> None:
    """Makes a placeholder an attribute of the module, called as in the model."""
    words = [word for word in re.findall(r"\w+", _source(node))[2:] if word not in _REGISTRIES]
    name = "_".join(words) or node.name
    name = f"weight_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name
    while hasattr(lifted.module, name):
        name = f"{name}_{place}"
    lifted.module.register_buffer(name, value.detach())
    lifted.weights[name] = place
    with node.graph.inserting_before(node):
        attribute = node.graph.get_attr(name)
    attribute.meta = dict(node.meta)
    node.replace_all_uses_with(attribute)
    node.graph.erase_node(node)


def _split_outputs(lifted: Lifted, symbols: Mapping[sympy.Symbol, tuple[int, int | None]]) -> None:
    """Leaves the module its tensors to return; the numbers are computed from the arguments of each call."""
    output = lifted.module.graph.output_node()
    tensors: list[Node] = []
    for result in output.args[0]:  # type: ignore[union-attr]
        example = result.meta.get("example_value") if isinstance(result, Node) else None
        if isinstance(example, torch.SymInt):
            used = {symbol: symbols[symbol] for symbol in example.node.expr.free_symbols if symbol in symbols}
            lifted.outputs.append(Number(example.node.expr, used))
        elif isinstance(result, Node) and not isinstance(example, (int, float, bool)):
            lifted.outputs.append(len(tensors))
            tensors.append(result)
        else:
            lifted.outputs.append(("literal", example if isinstance(result, Node) else result))
    output.args = (tuple(tensors),)  # no code is dead: here a write in place has no users, and torch.export sees it


def _rename(node: Node, taken: set[str]) -> None:
    """Calls an input by its name in the model: x for L['x'], pair_x for L['pair']['x']."""
    words = re.findall(r"\w+", _source(node).removeprefix("L"))
    name = "_".join(word for word in words if word != "kwargs") or node.name
    name = name if not name[0].isdigit() else f"args_{name}"
    while name in taken:
        name = f"{name}_input"
    taken.add(name)
    for other in node.graph.nodes:
        if other.name == name and other is not node:
            other._rename(f"{name}_value")
    node.name = node.target = name
    node.graph._graph_namespace.create_name(name, None)  # which no later node gets, then


def _source(node: Node) -> str:
    source = getattr(node.meta.get("grapharg"), "source", None)
    name = getattr(source, "name", node.name)  # a method before torch 2.11
    return str(name() if callable(name) else name)
