"""The table of ops that `bridge ops` shows."""

import importlib.util
import inspect
from collections.abc import Sequence
from typing import Any

from bridge.base.text import columns, listing
from bridge.core import libraries
from bridge.core.device_code import device_codes
from bridge.core.op import OPS, Op, written
from bridge.errors import UnknownNameError

_PLUGIN, _NATIVE = "plugin", "native"


def rows(names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """One dict for each op, or for each one named: name, schema, dtypes, lowerings, cuda, library, summary, doc.

    `dtypes` are those that the plugin takes for the first tensor; `doc` says more where an op has other tensors.
    `lowerings` are those present here: no "plugin" and no dtypes without the plugin library.

    UnknownNameError: there is no op of that name.
    """
    libraries.load_installed()
    unknown = [name for name in names or () if name not in OPS]
    if unknown:
        known = listing(sorted(written()), unknown[0])
        raise UnknownNameError(f"there is no op {unknown[0]}; the ops are {known}")
    plugins = libraries.plugin_dtypes()
    return [_row(OPS[name], plugins) for name in names or sorted(OPS)]


def text(table: Sequence[dict[str, Any]]) -> str:
    """The table for reading."""
    blocks = []
    for row in table:
        lines = [("schema", row["schema"]), ("dtypes", ", ".join(row["dtypes"])), ("lowerings", _lowerings_text(row))]
        lines += [("library", _library_text(row))]
        blocks.append(f"{row['name']}: {row['summary']}\n{columns(lines)}")
    return "\n\n".join(blocks)


def detail(row: dict[str, Any]) -> str:
    """One op with its whole documentation."""
    return f"{text([row])}\n\n{row['doc']}"


def _row(op: Op, plugins: dict[str, list[str]]) -> dict[str, Any]:
    doc = inspect.getdoc(op.reference) or ""
    lowerings = [_PLUGIN] if op.name in plugins else []
    if importlib.util.find_spec("bridge.tensorrt.native_lowerings") and importlib.util.find_spec(
        f"bridge.tensorrt.native_lowerings.{op.name}"
    ):
        lowerings.append(_NATIVE)
    return {
        "name": op.name,
        "schema": op.schema_text(),
        "dtypes": plugins.get(op.name, []),
        "lowerings": lowerings,
        "cuda": op.has_cuda_kernel,
        "library": _library(op),
        "summary": doc.partition("\n")[0],
        "doc": doc,
    }


def _library(op: Op) -> dict[str, Any]:
    """Where the op comes from, the GPUs that its library of plugins holds code for, and what is wrong with it."""
    path = op.library.find("plugins")
    codes = [] if path is None else [str(code) for code in device_codes(path)]
    problem = op.library.problem_of(op.local_name)
    return {"namespace": op.namespace, "origin": op.library.origin, "code": codes, "problem": problem}


def _library_text(row: dict[str, Any]) -> str:
    library = row["library"]
    code = f"code for {', '.join(library['code'])}" if library["code"] else "no plugins"
    problem = f"; problem: {' '.join(library['problem'].split())}" if library["problem"] else ""
    return f"{library['origin']}; {code}{problem}"


def _lowerings_text(row: dict[str, Any]) -> str:
    lowerings = ", ".join(row["lowerings"]) or "none here: `bridge doctor` says what is missing"
    return lowerings + ("" if row["cuda"] else "; no CUDA kernel for PyTorch here")
