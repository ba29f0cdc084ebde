"""Generated libraries that were built before: what an engine needs of them in another process."""

from collections.abc import Iterable, Mapping
from typing import Any

from bridge.base import cache_folder
from bridge.core import libraries
from bridge.core.library import GENERATED, Library
from bridge.core.op import OPS, Op
from bridge.core.signature import namespace_of
from bridge.errors import LibraryError
from bridge.generate import folders, summary
from bridge.generate.generated_op import GeneratedOp, define


def restore(name: str, target: str | None) -> None:
    """Makes the generated op of that qualified name known, if a library has it with code for a target.

    LibraryError: the library does not load.
    """
    known = OPS.get(name)
    if known is not None and not isinstance(known, GeneratedOp):
        return
    found = folders.holding(name, target)
    row = found and found.op(name.partition("::")[2])
    if found and row:
        tensors = [each["name"] for each in row["inputs"]]
        define(name, row["operator"], tensors, len(row["outputs"]), found.path, None)


def library_of(name: str) -> Library:
    """The library with the plugin of an op, by its key in OPS. LibraryError: there is none."""
    return OPS[name].library if name in GENERATED & OPS.keys() else libraries.library(namespace_of(name))


def summaries(ops: Iterable[Op], target: str) -> list[dict[str, Any]]:
    """What an engine file tells of those ops that are generated; see `summary.row_of`.

    LibraryError: the description of a library is gone.
    """
    own = {op.qualified_name: op for op in ops if isinstance(op, GeneratedOp)}
    return [_summary(op, target) for _, op in sorted(own.items())]


def _summary(op: GeneratedOp, target: str) -> dict[str, Any]:
    folder = op.library.directories()[0]
    try:
        row = summary.row_of(folders.read(folder), op.local_name, target)
    except (OSError, ValueError) as error:
        raise LibraryError(f"{op.qualified_name}: {error}. {op.library.remedy}") from error
    if row is None:
        raise LibraryError(f"{folder} does not describe {op.qualified_name}. {op.library.remedy}")
    return row


def lacking_text(name: str, rows: Iterable[Mapping[str, Any]], target: str) -> str | None:
    """That no library here has an engine's generated plugin; None: one has it, or it is not generated.

    rows: what the engine file says of its generated plugins.
    """
    operator = next((row["operator"] for row in rows if row["name"] == name), None)
    if operator is None or name in OPS:
        return None
    return (
        f"the engine needs the plugin {name}, that bridge generated from {operator} for {target}, and no library with "
        f"it is in {cache_folder.folder_of()} or on {folders.PATH_VARIABLE}: compile the model again here; or copy the "
        "library from where the engine was compiled, or what `bridge build-ops -o DIR` wrote, and set "
        f"{folders.PATH_VARIABLE} to its folder"
    )
