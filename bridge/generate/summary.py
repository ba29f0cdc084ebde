"""What an engine file and `bridge explain` tell of a generated plugin: a row of bounded size, for one target."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bridge.engine_file.generated_rows import LONGEST, MOST
from bridge.generate.folders import Generated


def rows_of(library: Generated, target: str) -> list[dict[str, Any]]:
    """A row for every plugin of a library; sizes in bytes."""
    return [_row(library, op, target) for op in library.ops]


def row_of(library: Generated, local_name: str, target: str) -> dict[str, Any] | None:
    """The row of one plugin; None: it has none of that name."""
    op = library.op(local_name)
    return None if op is None else _row(library, op, target)


def _row(library: Generated, op: Mapping[str, Any], target: str) -> dict[str, Any]:
    kernels = _kernels(op["kernels"])
    used = [_code_for(kernel["targets"], target) for kernel in op["kernels"]]
    return {
        "name": f"{library.namespace}::{op['name']}",
        "operator": op["operator"],
        "inputs": [_input(each, op["symbols"]) for each in op["inputs"]],
        "kernel_count": len(kernels),
        "kernels": kernels[:MOST],
        "region_count": len(op["regions"]),
        "regions": [_region(each) for each in op["regions"][:MOST]],
        "workspace_bytes": op["workspace_bytes"],
        "cubin_bytes": sum(each.get("cubin_bytes", 0) for each in used),
        "compressed_bytes": sum(each.get("compressed_bytes", 0) for each in used),
        "library_bytes": library.library.stat().st_size,
        "seconds": round(sum(library.description["seconds"].values()), 2),
    }


def _code_for(targets: Mapping[str, Any], target: str) -> Mapping[str, Any]:
    """What a kernel has for a target: of the greatest capability up to it in the same generation."""
    wanted = int(target.removeprefix("sm"))
    known = {int(name.removeprefix("sm")): code for name, code in targets.items()}
    best = max((each for each in known if each <= wanted and each // 10 == wanted // 10), default=None)
    return {} if best is None else dict(known[best])


def _input(tensor: Mapping[str, Any], symbols: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A tensor, whose dynamic extents have their range: ["n0: 1 to 8", 64]."""
    ranges = {each["name"]: f"{each['name']}: {each['low']} to {each['high']}" for each in symbols}
    shape = None if tensor["shape"] is None else [ranges.get(extent, extent) for extent in tensor["shape"]]
    return {"name": tensor["name"], "dtype": tensor["dtype"], "shape": shape}


def _kernels(kernels: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Kernels by their functions: each with its configurations, and the number of variants that were compiled."""
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    for kernel in kernels:
        function, file, line = kernel["function"], kernel["file"], kernel["line"]
        new = {"function": function, "file": file, "line": line, "variants": 0, "configurations": []}
        row = found.setdefault((function, file, line), new)
        row["variants"] += 1
        values = {**kernel["constants"], **kernel["options"]}
        text = _short(", ".join(f"{name}={value}" for name, value in values.items()))
        if text not in row["configurations"] and len(row["configurations"]) < MOST:
            row["configurations"].append(text)
    return list(found.values())


def _region(region: Mapping[str, Any]) -> dict[str, Any]:
    launches = sum("launch" in step for step in region["steps"])
    return {"conditions": _short(" and ".join(region["conditions"])), "launches": launches}


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 2]} …"
