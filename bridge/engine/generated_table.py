"""Tables of the generated plugins of an engine: what each was made from, and what is in it."""

from collections.abc import Iterator, Mapping
from typing import Any

from bridge.base.text import columns, size
from bridge.engine_file.contents import EngineFile


def rows(file: EngineFile) -> list[dict[str, Any]]:
    """A row for every generated plugin; none where an older bridge wrote the file. generated_rows.py has its keys."""
    found = file.metadata.get("generated")
    return found if isinstance(found, list) else []


def text(file: EngineFile, every_detail: bool = False) -> str:
    """A line for every generated plugin; every_detail: also its inputs, kernels and regions. "" where there is none."""
    lines = rows(file)
    if not lines:
        return ""
    table = columns(line(row) for row in lines)
    parts = [f"generated plugins: {len(lines)}\n{table}"]
    return "\n\n".join([*parts, *(_details_text(row) for row in lines)] if every_detail else parts)


def line(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Operator, plugin, regions, kernels, launches, workspace, code and library of a generated plugin."""
    return (
        row["operator"],
        row["name"],
        _number(row["region_count"], "region"),
        _number(row["kernel_count"], "kernel"),
        _launches(row),
        f"workspace {size(row['workspace_bytes'])}",
        f"code {size(row['cubin_bytes'])}, {size(row['compressed_bytes'])} compressed",
        f"library {size(row['library_bytes'])}, made in {row['seconds']:.1f} s",
    )


def _launches(row: Mapping[str, Any]) -> str:
    counts = sorted({each["launches"] for each in row["regions"]}) or [0]
    return _number(counts[0], "launch") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} launches"


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 'es' if what.endswith('ch') else 's'}"


def _details_text(row: Mapping[str, Any]) -> str:
    return f"{row['name']} from {row['operator']}\n{columns(details(row))}"


def details(row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """What, name and place of each input, kernel and region of a generated plugin."""
    for each in row["inputs"]:
        shape, dtype = each.get("shape"), each.get("dtype") or ""  # a file may leave out what is None
        extents = "absent" if shape is None else f"[{', '.join(map(str, shape))}]"
        yield "input", each["name"], f"{dtype} {extents}"
    for each in row["kernels"]:
        where = f"{each['file']}:{each['line']}, {_number(each['variants'], 'variant')}"
        yield "kernel", each["function"], where
        yield from (("", "", text) for text in each["configurations"])
    if left := row["kernel_count"] - len(row["kernels"]):
        yield "kernel", f"and {left} more", ""
    for index, each in enumerate(row["regions"]):
        yield f"region {index}", _number(each["launches"], "launch"), each["conditions"] or "any other extents"
    if left := row["region_count"] - len(row["regions"]):
        yield "region", f"and {left} more", ""
