"""What a traced graph must not hold, and what is rewritten in it before Inductor lowers it."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import sympy
import torch
from torch.fx import Graph, GraphModule, Node
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._sympy.functions import Max

from bridge.errors import UnsupportedOpError
from bridge.generate.inductor.scans import SCAN
from bridge.graph import control_flow
from bridge.graph.model_source import model_line, operator_name

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64)
"""Of inputs and outputs: those of csrc/core/dtype.h."""

Constant: TypeAlias = tuple[torch.dtype, Sequence[int], list[Any]]

_GPU = torch.device("cuda", 0)
_MOST_CONSTANTS = 64  # elements of a tensor that is written into a kernel
_IN_ONE_STEP = 8  # elements: Inductor makes a longer list a tensor in memory


def names(dtypes: Sequence[torch.dtype]) -> str:
    """Dtypes in a message."""
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def extent_of(extent: Any) -> sympy.Expr:
    """An extent of a traced tensor as an expression."""
    return extent.node.expr if isinstance(extent, torch.SymInt) else sympy.sympify(extent)


def is_contiguous(shape: Sequence[Any], strides: Sequence[Any]) -> bool:
    """Whether strides are a contiguous tensor's for all extents, without a guard on any."""
    expected = sympy.S.One
    for extent, stride in zip(map(extent_of, reversed(shape)), map(extent_of, reversed(strides)), strict=True):
        if extent != 1 and stride.replace(Max, _without_one) != expected:
            return False
        expected *= extent
    return True


def _without_one(*extents: sympy.Expr) -> sympy.Expr:
    """Of max(1, n), which a stride has in place of n, for tensors without elements."""
    (*rest,) = (extent for extent in extents if extent != 1)
    return rest[0] if len(rest) == 1 else Max(*extents)


def unsupported(node: Node | None, reason: str, name: str = "") -> UnsupportedOpError:
    """The error for an operator that no kernel can do. name: of the operator, where there is no node."""
    if node is None:
        return UnsupportedOpError(f"{name}: {reason}" if name else reason)
    return UnsupportedOpError(f"{name or operator_name(node)}: {reason} ({model_line(node)})")


def check(node: Node) -> None:
    """UnsupportedOpError: a node makes random or complex numbers, writes in place, or calls functions."""
    if node.op != "call_function":
        return
    if node.target is not SCAN and (reason := control_flow.refusal(node.target)):
        raise unsupported(node, reason)
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise unsupported(node, "its random numbers would not be torch's")
    if any(
        isinstance(value, torch.Tensor) and value.is_complex() for value in pytree.tree_leaves(node.meta.get("val"))
    ):
        raise unsupported(node, "kernels have no complex numbers")
    if is_in_place(node):
        raise unsupported(node, f"it writes to {node.args[0]} in place; return the result instead")


def is_in_place(node: Node) -> bool:
    """Whether a node writes to its operands."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def squeezed(module: GraphModule) -> Iterator[sympy.Expr]:
    """Dynamic extents that are kept where they are squeezed: eager PyTorch drops them where they are 1."""
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in _SQUEEZES:
            shape = node.args[0].meta["val"].shape
            chosen = node.args[1] if len(node.args) > 1 else range(len(shape))
            for axis in [chosen] if isinstance(chosen, int) else chosen:
                if shape and isinstance(shape[axis], torch.SymInt):
                    yield extent_of(shape[axis])


_SQUEEZES = (torch.ops.aten.squeeze.default, torch.ops.aten.squeeze.dim, torch.ops.aten.squeeze.dims)


def constants_of(module: GraphModule, functions: Collection[str] = ()) -> dict[str, Constant]:
    """The constants of a graph by name, each as dtype, shape and elements. functions: names of what is none.

    UnsupportedOpError: one is too large.
    """
    names = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    constants = {name: getattr(module, name) for name in sorted(names - set(functions))}
    for tensor in constants.values():
        if tensor.numel() > _MOST_CONSTANTS:
            raise UnsupportedOpError(
                f"a constant tensor of shape {tuple(tensor.shape)} is part of the function; at most {_MOST_CONSTANTS}"
                " elements can be: make it an input"
            )
    return {name: (tensor.dtype, tensor.shape, tensor.flatten().tolist()) for name, tensor in constants.items()}


def write_out(module: GraphModule, constants: Mapping[str, Constant]) -> None:
    """Makes the elements of constants part of the graph."""
    for node in module.graph.find_nodes(op="get_attr"):
        if str(node.target) not in constants:
            continue
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(_written_out(module.graph, *constants[str(node.target)]))
        module.graph.erase_node(node)


def _written_out(graph: Graph, dtype: torch.dtype, shape: Sequence[int], values: list[Any]) -> Node:
    aten = torch.ops.aten
    kind = {"dtype": dtype, "device": torch.device("cpu")}
    if len(values) <= 1:
        return _call(graph, aten.full.default, (list(shape), values[0] if values else 0), kind)
    parts = [
        _call(graph, torch.tensor, (values[start : start + _IN_ONE_STEP],), kind)
        for start in range(0, len(values), _IN_ONE_STEP)
    ]
    whole = parts[0] if len(parts) == 1 else _call(graph, aten.cat.default, (parts,), {})
    return _call(graph, aten.view.default, (whole, list(shape)), {})


def separate_outputs(module: GraphModule, any_dtype: bool = False) -> tuple[torch.Tensor, ...]:
    """Copies outputs that do not fill memory of their own.

    UnsupportedOpError: one is no tensor, or of a dtype that plugins do not have.
    """
    (end,) = module.graph.find_nodes(op="output")
    taken = {_memory(node) for node in module.graph.find_nodes(op="placeholder") if _is_tensor(node)}
    outputs = []
    for place, node in enumerate(end.args[0]):
        if not isinstance(node, Node) or not _is_tensor(node):
            raise UnsupportedOpError(f"output {place} is {node!r}; plugins return tensors")
        dtype = node.meta["val"].dtype
        if not any_dtype and dtype not in DTYPES:
            raise UnsupportedOpError(
                f"output {place} is {names([dtype])}; plugins return {names(DTYPES)} ({model_line(node)})"
            )
        if _memory(node) in taken or not _fills_its_memory(node.meta["val"]):
            with module.graph.inserting_before(end):
                form = {"memory_format": torch.contiguous_format}
                node = _call(module.graph, torch.ops.aten.clone.default, (node,), form)
        taken.add(_memory(node))
        outputs.append(node)
    end.args = (outputs,)
    module.graph.eliminate_dead_code()
    module.recompile()
    values = tuple(node.meta["val"] for node in outputs)
    end.meta["user_visible_output_idxs"] = range(len(outputs))  # Inductor keeps the strides of these
    end.meta["original_output_strides"] = [value.stride() for value in values]
    return values


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _memory(node: Node) -> StorageWeakRef:
    return StorageWeakRef(node.meta["val"].untyped_storage())


def _fills_its_memory(tensor: torch.Tensor) -> bool:
    needed = math.prod(map(extent_of, tensor.shape)) * tensor.element_size()
    return is_contiguous(tensor.shape, tensor.stride()) and extent_of(tensor.untyped_storage().nbytes()) == needed


def move_to_gpu(module: GraphModule) -> None:
    """Replaces the device of every tensor, those that nodes make included."""
    for node in module.graph.nodes:
        node.args, node.kwargs = pytree.tree_map_only(torch.device, lambda device: _GPU, (node.args, node.kwargs))
        if "val" in node.meta:
            node.meta["val"] = pytree.tree_map_only(torch.Tensor, _moved, node.meta["val"])


def _moved(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=_GPU)


def _call(graph: Graph, target: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Node:
    node = graph.call_function(target, arguments, named)
    node.meta["val"] = target(*torch.fx.node.map_arg(arguments, lambda argument: argument.meta["val"]), **named)
    return node
