"""An op's shape rule stands in two languages: the plugin library's is compared with the graph, for every call.

The graph's shapes are the reference's. An engine has the plugin library's, at every extent of its profile.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch

from bridge.core import libraries
from bridge.core.op import Op
from bridge.errors import BuildError, OpInputError, UnsupportedOpError
from bridge.tensorrt.plugins.fields import Call

_MOST = 1 << 12  # as great an extent as is tried where a dimension has a greater limit

Extents = Mapping[sympy.Symbol, sympy.Integer]


def refusal(op: Op) -> str | None:
    """That an op has no plugin, and what to do; None where it has."""
    library = op.library
    if problem := library.problem_of(op.local_name):
        return f"its native library cannot be used: {problem}"
    if library.has_plugin(op.local_name):
        return None
    return (
        f"an engine needs a kernel of it, and {_absence(op)}; it is defined in {op.defined_in}. Write its op struct "
        f"and kernel: `bridge new op {op.qualified_name}` makes a package with both. Where plain torch does, call the "
        "function without @bridge.op, and its own operators are converted"
    )


def _absence(op: Op) -> str:
    """That a library has no plugin of an op, and what it has instead."""
    library = op.library
    if library.find("plugins") is None:
        return library.missing_text("plugins")
    names = sorted(library.plugins().schemas)
    return f"{library.plugin_library()} has none: it holds {', '.join(names)}"


def check(call: Call, tensors: Sequence[torch.Tensor | None], results: Sequence[torch.Tensor]) -> None:
    """Compares the rules at the example's extents, and at the least and the greatest ones of dynamic dimensions.

    tensors, results: of the call's node, None where an optional one is absent.

    UnsupportedOpError: the op has no plugin. BuildError: the rules differ.
    """
    if (reason := refusal(call.op)) is not None:
        raise UnsupportedOpError(f"{call.op.name}: {reason}; {call.line or 'at an unknown line'}")
    _check_dtypes(call)
    for extents, certain in _places([tensor for tensor in tensors if tensor is not None]):
        shapes = [None if tensor is None else _shape(tensor, extents) for tensor in tensors]
        if any(shape is not None and -1 in shape for shape in shapes):
            continue
        try:
            inferred = libraries.infer_shapes(call.op, shapes, call.attributes)
        except OpInputError as error:
            if not certain:
                continue
            raise BuildError(f"the plugin library refuses {call.op.name}: {error}{_where(call)}") from error
        for place, (mine, result) in enumerate(zip(inferred, results, strict=True)):
            declared = _shape(result, extents)
            if _differ(mine, declared):
                names = zip(call.op.tensors, shapes, strict=True)
                inputs = ", ".join(f"{name} {list(shape)}" for name, shape in names if shape is not None)
                rules = f"{list(mine)} by the plugin library", f"{list(declared)} by its reference"
                raise BuildError(_difference(call, place, *rules, f" for {inputs}"))


def _check_dtypes(call: Call) -> None:
    """UnsupportedOpError: the kernel does not take a dtype. BuildError: it gives another one than the reference."""
    names = [None if tensor is None else tensor[0].name for tensor in call.tensors]
    try:
        inferred = call.op.library.plugins().infer_dtypes(call.op.local_name, names, call.attributes)
    except OpInputError as error:
        reason = f"its kernel does not take these tensors: {error}"
        raise UnsupportedOpError(f"{call.op.name}: {reason}; {call.line or 'at an unknown line'}") from error
    for place, (dtype, declared) in enumerate(zip(inferred, call.outputs, strict=True)):
        if dtype != declared.name:
            rules = f"{dtype} by the plugin library", f"{declared.name} by its reference"
            raise BuildError(_difference(call, place, *rules))


def check_network(call: Call, inferred: Sequence[tuple[int, ...]]) -> None:
    """Compares what the network infers, -1 for what depends on its inputs, with the graph. BuildError: they differ."""
    for place, (shape, declared) in enumerate(zip(inferred, call.results, strict=False)):
        if _differ(shape, declared):
            rules = f"{list(shape)} in the network", f"{list(declared)} in the graph"
            raise BuildError(_difference(call, place, *rules))


def _differ(inferred: Sequence[int], declared: Sequence[int]) -> bool:
    """Whether two shapes do, -1 where an extent is not known."""
    pairs = zip(inferred, declared, strict=False)
    return len(inferred) != len(declared) or any(a >= 0 and b >= 0 and a != b for a, b in pairs)


def _places(tensors: Sequence[torch.Tensor]) -> Iterator[tuple[Extents, bool]]:
    """The extents that are tried: what each symbol of the shapes is; and whether a model has them for certain, which
    guards of the graph may rule out for others than the example's."""
    extents: list[Any] = [extent for tensor in tensors for extent in tensor.shape]
    nodes = [extent.node for extent in extents if isinstance(extent, torch.SymInt)]
    envs = {symbol: node.shape_env for node in nodes for symbol in node.expr.free_symbols}
    known = {symbol: _example(env).get(symbol) for symbol, env in envs.items()}
    example = {symbol: sympy.Integer(2 if extent is None else extent) for symbol, extent in known.items()}
    yield example, None not in known.values()
    if envs:
        ranges = {symbol: env.var_to_range[symbol] for symbol, env in envs.items()}
        yield {symbol: _clipped(limits.lower) for symbol, limits in ranges.items()}, False
        yield {symbol: _clipped(limits.upper) for symbol, limits in ranges.items()}, False


def _example(env: Any) -> Mapping[sympy.Symbol, Any]:
    """The extents of the example; torch 2.11 gave the table another name."""
    return env.backed_var_to_val if hasattr(env, "backed_var_to_val") else env.var_to_val


def _clipped(limit: Any) -> sympy.Integer:
    return sympy.Integer(min(max(int(limit), 1), _MOST) if limit.is_Integer else _MOST)


def _shape(tensor: torch.Tensor, extents: Extents) -> tuple[int, ...]:
    """A shape at these extents; -1 where one depends on anything else, such as what is counted."""
    return tuple(_extent(extent, extents) for extent in tensor.shape)


def _extent(extent: int | torch.SymInt, extents: Extents) -> int:
    if isinstance(extent, int):
        return extent
    value = extent.node.expr.xreplace(extents)
    return int(value) if value.is_Integer else -1


def _difference(call: Call, place: int, inferred: str, declared: str, inputs: str = "") -> str:
    return f"{call.op.name}: output {place} is {inferred}, and {declared}{inputs}{_where(call)}"


def _where(call: Call) -> str:
    files = f"{call.op.local_name}.cu, or {call.op.defined_in}"
    return f"; {call.line or 'at an unknown line'}\nMend `shapes` or `outputs` in {files}."
