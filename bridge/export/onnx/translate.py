"""Has torch.onnx translate a prepared program, and says which operators it cannot."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import Node

from bridge.base.third_party_output import silence_onnx
from bridge.core.op import OPS
from bridge.errors import ExportError, UnsupportedOpError
from bridge.export.onnx.plugin_nodes import stub, translation
from bridge.graph.model_source import model_line, operator_name

OPSET = 22
"""Of ONNX's own operators: the first in which convolutions take bfloat16."""

TRACE = "pkg.torch.onnx.stack_trace"
"""Where torch.onnx notes a node's stack trace, in the node's metadata."""

_UNTRANSLATED = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>")
_SHOWN_LINES = 3  # of each operator
Table = Mapping[Any, Callable[..., Any]]


def translated(program: ExportedProgram) -> Any:
    """The torch.onnx.ONNXProgram of a program.

    UnsupportedOpError: ONNX has nothing for some operators; all are named. ExportError: torch.onnx fails.
    """
    result, missing = _attempt(program)
    if missing:
        raise UnsupportedOpError(_missing_text(missing, _origins(program, result, missing)))
    return result


def untranslated(program: ExportedProgram) -> set[OpOverload]:
    """The operators of a program that become what ONNX has nothing for. ExportError: torch.onnx fails."""
    origins = _origins(program, *_attempt(program))
    return {node.target for nodes in origins.values() for node in nodes if isinstance(node.target, OpOverload)}


def _attempt(program: ExportedProgram) -> tuple[Any, list[OpOverload]]:
    """The translation, and the operators for which there are stubs in it."""
    missing: list[OpOverload] = []
    while True:
        table = {op.overload: translation(op) for op in OPS.values()} | {each: stub(each) for each in missing}
        try:
            return _export(program, table, optimize=not missing), missing
        except Exception as error:  # torch.onnx's own error, and what onnxscript's optimizer raises
            operator = _untranslated(error)
            if operator is not None and operator not in missing:
                missing.append(operator)
            elif missing:
                return None, missing  # a stub did not fit: what was found so far is enough to be told
            else:
                raise ExportError(f"torch.onnx cannot translate the model: {_reason(error)}") from error


def _export(program: ExportedProgram, table: Table, optimize: bool) -> Any:
    with silence_onnx():
        return torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            optimize=optimize,
            opset_version=OPSET,
            custom_translation_table=dict(table),
        )


def _untranslated(error: BaseException) -> OpOverload | None:
    """The operator whose translation is missing; None where something else went wrong."""
    for each in _causes(error):
        if match := _UNTRANSLATED.search(str(each)):
            namespace, _, name = match[1].partition(".")
            return getattr(getattr(getattr(torch.ops, namespace), name), match[2])
    return None


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None:
        found.append(error)
        error = error.__cause__
    return found


def _reason(error: BaseException) -> str:
    """The first cause, and the node where it happened."""
    causes = _causes(error)
    places = [str(each).partition(". See the")[0] for each in causes if str(each).startswith("Error when translating")]
    return "; ".join([f"{type(causes[-1]).__name__}: {causes[-1]}", *places])


def _origins(program: ExportedProgram, result: Any, missing: Sequence[OpOverload]) -> dict[OpOverload, list[Node]]:
    """The nodes of a program that became calls of missing operators, which torch.onnx made of them."""
    nodes = {node.name: node for node in program.graph.nodes}
    origins: dict[OpOverload, list[Node]] = {operator: [] for operator in missing}
    for node in result.exported_program.graph.nodes if result is not None else ():
        if node.target in origins:
            names = [each.name for each in _sources(node.meta.get("from_node", ())) if each.name in nodes]
            origins[node.target] += [nodes[name] for name in names[-1:]]
    return origins


def _sources(sources: Iterable[Any]) -> Iterator[Any]:
    """Where a node came from, as torch notes it, and where that came from."""
    for source in sources:
        yield source
        yield from _sources(source.from_node)


def _missing_text(missing: Sequence[OpOverload], origins: Mapping[OpOverload, Sequence[Node]]) -> str:
    return (
        f"ONNX has nothing for {len(missing)} of the model's operators, and none of them has a plugin:\n"
        + "\n".join(_uses_text(each, origins[each]) for each in missing)
        + "\nRewrite these lines, with one of bridge's ops (`bridge ops`) where it fits; or let Inductor write kernels"
        " for them (the setting generate=True); or make an op of them in a package of yours (`bridge new op"
        " acme::corr`), or give an operator that has its kernel a plugin (bridge.bind). docs/unsupported.md compares"
        " these ways."
    )


def _uses_text(missing: OpOverload, nodes: Sequence[Node]) -> str:
    names = list(dict.fromkeys(map(operator_name, nodes))) or [str(missing)]
    lines = list(dict.fromkeys(map(model_line, nodes))) or ["at an unknown line"]
    reason = "torch.onnx has no translation" + ("" if names == [str(missing)] else f" of {missing}")
    return f"  {', '.join(names)}: {reason}" + "".join(f"\n      {line}" for line in lines[:_SHOWN_LINES])
