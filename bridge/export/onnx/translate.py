"""Has torch.onnx translate a prepared program, and says which operators it cannot."""

import collections
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram

from bridge.base.third_party_output import silence_onnx
from bridge.core.op import OPS
from bridge.errors import ExportError, UnsupportedOpError
from bridge.export.onnx.plugin_nodes import STUBS, stub, translation
from bridge.graph.model_source import line_of_trace

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
        raise UnsupportedOpError(_missing_text(missing, _lines(result)))
    return result


def untranslated(program: ExportedProgram) -> list[OpOverload]:
    """The operators that ONNX has nothing for. ExportError: torch.onnx fails."""
    return _attempt(program)[1]


def _attempt(program: ExportedProgram) -> tuple[Any, list[OpOverload]]:
    """The translation, and the operators for which there are stubs in it."""
    missing: list[OpOverload] = []
    while True:
        table = {op.overload: translation(op) for op in OPS.values()} | {each: stub(each) for each in missing}
        try:
            return _export(program, table, optimize=not missing), missing
        except torch.onnx.errors.OnnxExporterError as error:
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


def _lines(result: Any) -> dict[str, list[str]]:
    """The model's lines that made stubs, by operator."""
    lines = collections.defaultdict(list)
    for node in result.model.graph if result is not None else ():
        if node.domain == STUBS:
            lines[node.op_type].append(line_of_trace(node.metadata_props.get(TRACE, "")))
    return lines


def _missing_text(missing: Sequence[OpOverload], lines: Mapping[str, Sequence[str]]) -> str:
    return (
        f"ONNX has nothing for {len(missing)} of the model's operators, and none of them has a plugin:\n"
        + "\n".join(_uses_text(str(each), lines.get(str(each), ())) for each in missing)
        + "\nRewrite these lines, with one of bridge's ops (`bridge ops`) where it fits; or let Inductor write kernels"
        " for them (the setting generate=True); or make an op of them in a package of yours (`bridge new op"
        " acme::corr`), or give an operator that has its kernel a plugin (bridge.bind). docs/unsupported.md compares"
        " these ways."
    )


def _uses_text(operator: str, lines: Sequence[str]) -> str:
    distinct = [line for line in dict.fromkeys(lines) if line] or ["at an unknown line"]
    return f"  {operator}: torch.onnx has no translation" + "".join(
        f"\n      {each}" for each in distinct[:_SHOWN_LINES]
    )
